//go:build linux

package faulttest

import (
	"encoding/gob"
	"io"
	"sync"
	"time"

	"multiraft/wire"
)

// ChildConfig is what a child runs: one store with groups 1 to Groups. Each begins
// with a voter on every one of Members, whose replica ids are their store ids; what
// they have become since is in the log of the store.
type ChildConfig struct {
	Cluster      uint64
	Store        wire.StoreID
	Members      []wire.StoreID
	Groups       int
	Dir          string
	Listen       string
	Peers        map[wire.StoreID]string
	SegmentBytes int64
	Tick         time.Duration
	// SnapshotEntries is after how many commands a group makes a snapshot; of the
	// log in front of it a quarter as many entries stay.
	SnapshotEntries uint64
	// Filler bounds the bytes that are added to each command.
	Filler int
	// TLS names the files with which the store proves who it is. Nil means that
	// connections are plain.
	TLS *TLSPaths
	// Leases has reads be served by lease.
	Leases bool
	// Budget bounds the bytes of each kind that may wait in memory. Zero means what
	// the engine has as default.
	Budget int64
	// DiskLost is engine.Config.DiskLost. JoinOnly has the store begin no group from
	// Members, in every life after such a loss.
	DiskLost, JoinOnly bool
	// Death is nil for those who live until somebody kills them.
	Death *Death
}

// TLSPaths are files as transport.TLSFiles wants them.
type TLSPaths struct {
	Certificate, Key, Authorities string
}

type operation uint8

const (
	opWrite    operation = iota + 1 // of Value to Key
	opRead                          // of Key, linearizable
	opState                         // of Group, linearizable
	opMissing                       // of Values, those that Group has not executed
	opHealth                        // why the store or its groups stopped, and counters
	opMembers                       // of Group, as its leader has them
	opAdd                           // a voter of Group on Store
	opRemove                        // the replica of Group on Store
	opReplace                       // the replica of Group on Old by one on Store
	opTransfer                      // the lead of Group to Store
	opHog                           // takes memory until there is no more
)

// Request is one call of the parent. Timeout bounds it in the child.
type Request struct {
	ID    uint64
	Op    operation
	Group wire.GroupID
	Key   uint64
	Value uint64
	// Values are what opMissing asks for.
	Values []uint64
	// Again has the machine look whether it has executed the write before: the
	// client may send it several times.
	Again      bool
	Store, Old wire.StoreID
	Timeout    time.Duration
}

// Outcome says what is known of a request.
type Outcome uint8

const (
	Done    Outcome = iota + 1
	Refused         // it has no effect and never will have
	Unknown         // it may have had its effect, or may have it any time later
)

// Response answers a Request. The first one of a process has ID 0 and tells that
// the store is open, or why it is not.
type Response struct {
	ID      uint64
	Outcome Outcome
	Value   uint64 // read; index of what was written; of the first response the process id
	Values  []uint64
	State   State
	Leader  wire.StoreID // that a refusal names
	Failed  bool         // the store stopped, for this reason
	Text    string       // error; of the first response the address
	// Members are the stores of a group, voters only.
	Members []wire.StoreID
	Health  Health
}

// Health is how a store is. What it counts begins when it was opened.
type Health struct {
	// Hosted are the groups that the store has a replica of, Led those of them
	// whose leader it knows, Leading those that it leads.
	Hosted, Led, Leading int
	// Damage are the groups whose replica has lost something and is not whole again,
	// Barred those that were recovered without this store.
	Damage, Barred []wire.GroupID
	// Stopped counts replicas that stopped for any other reason.
	Stopped int
	// Damaged, Healed and Replaced count replicas that lost something, and that came
	// back; Repairing are those that are to, now.
	Damaged, Healed, Replaced, Repairing int64
	// Outlived counts how often peers said that they have met a later life.
	Outlived int64
	// Made and Installed count snapshots.
	Made, Installed int64
	Elections       int64 // campaigns of replicas here
	// First and Applied are the first entry in the log and the last that was applied,
	// indexes of all groups added up.
	First, Applied  wire.Index
	Joined, Removed int64 // replicas
	Refused         int64 // connections
	LeaseReads      int64
	Fitness         string
}

// sender writes values to a pipe from any goroutine.
type sender struct {
	mu  sync.Mutex // guards enc
	enc *gob.Encoder
}

func newSender(w io.Writer) *sender { return &sender{enc: gob.NewEncoder(w)} }

func (s *sender) send(v any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.enc.Encode(v)
}
