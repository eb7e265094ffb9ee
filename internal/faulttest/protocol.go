//go:build linux

package faulttest

import (
	"encoding/gob"
	"io"
	"sync"
	"time"

	"multiraft/wire"
)

// ChildConfig is what a child runs: one store with groups 1 to Groups, each of
// which has a voter on every one of Members. Replica ids are store ids.
type ChildConfig struct {
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
}

type operation uint8

const (
	opWrite  operation = iota + 1 // of Value to Key
	opRead                        // of Key, linearizable
	opState                       // of Group, linearizable
	opLeader                      // waits for a leader of Group
	opHealth                      // why the store or its groups stopped
)

// Request is one call of the parent. Timeout bounds it in the child.
type Request struct {
	ID      uint64
	Op      operation
	Group   wire.GroupID
	Key     uint64
	Value   uint64
	Timeout time.Duration
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
	Value   uint64 // read; of the first response the process id
	State   State
	Leader  wire.StoreID // that a refusal names
	Failed  bool         // the store stopped, for this reason
	Text    string       // error; of the first response the address
	// Made and Installed count snapshots since the store was opened.
	Made, Installed int64
	// Damage are the groups whose log is damaged.
	Damage []wire.GroupID
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
