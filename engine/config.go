package engine

import (
	"crypto/tls"
	"errors"
	"fmt"
	"runtime"
	"time"

	"go.uber.org/zap"

	"multiraft/group"
	"multiraft/internal/snapfile"
	"multiraft/raftlog"
	"multiraft/scheduler"
	"multiraft/transport"
	"multiraft/wire"
)

// Config of a store. Cluster, ID, Dir and a way to reach peers must be given;
// the zero value of every other field selects its default.
type Config struct {
	// Cluster is the same number on all stores that talk to each other. Stores
	// of another cluster are refused. Must not be zero.
	Cluster uint64
	// ID names this store in the cluster for ever. Must not be zero.
	ID wire.StoreID
	// Dir holds the store's log. It is made when missing and belongs to this
	// store alone.
	Dir string
	// DiskLost says that what this store had in Dir is gone, and that it comes back
	// with an empty directory under its id. Without it, peers that have met a later
	// life of the store refuse it. With it, the store begins no group from Members:
	// its replica may have promised what it does not know any more. What StartGroup
	// is called for with Members is lost ([*ReplicaLostError]), and replaced by a new
	// replica of the group. So is what leaders ask for by Join and the store knows
	// nothing of, as it may have had a vote before. When all are back, leave DiskLost
	// out again. A store that holds a replica that is not lost when it is opened, and is
	// refused, is on an older copy of its disk, and fails with it as without.
	DiskLost bool
	// DisableRepair leaves damaged replicas as they are: those that have lost entries
	// or promises do not start, or fail. Without it they come back by themselves, in
	// place or as new replicas; see docs/repair.md.
	DisableRepair bool
	// Listen is the address for other stores, as in ":7001". With port 0 the
	// system picks one and Store.Addr tells it.
	Listen string
	// Peers are the addresses of the other stores. Store.SetPeer adds more.
	Peers map[wire.StoreID]string
	// TLS is asked for each new connection to or from another store what to secure
	// it with: mutual TLS 1.3, see [transport.TCPConfig]. [transport.TLSFiles] is
	// such a function for files. Nil means that connections are neither encrypted
	// nor authenticated: whoever reaches Listen can speak for any store.
	TLS func() (*tls.Config, error)
	// Limits bounds what connections cost before it is known whose they are.
	Limits transport.Limits
	// Transport replaces TCP. Listen, Peers, TLS and Limits are then not used. The
	// store closes it.
	Transport transport.Transport
	// MaxProtocol is the newest version of the protocol between stores that this one
	// speaks. Zero means the newest there is, [wire.ProtocolVersion]. Two stores speak
	// the newest version that both do, so a store at a time can be given a new release
	// without it; with it, a cluster stays at the old version until all stores have
	// the release, and nothing depends on the new version before. What a version
	// brought is in docs/wire-format.md. A Transport needs a method LimitProtocol then.
	MaxProtocol uint16
	// FS replaces the operating system's files.
	FS raftlog.FS
	// NoSync leaves out every sync of the log: a crash of the machine loses
	// acknowledged writes. Only for measuring.
	NoSync bool
	// SegmentBytes is the size of a log segment. Zero means 64 MiB.
	SegmentBytes int64

	// Workers run groups. Zero means half the processors, at least 1.
	Workers int
	// Appliers run state machines. Zero means half the processors, at least 1.
	Appliers int
	// TickInterval is one unit of logical time. Zero means 50 ms.
	TickInterval time.Duration
	// Tuning of all groups. Its zero values select their defaults; with 50 ms
	// ticks a heartbeat is sent every 100 ms and elections start after 1 to
	// 2 s without one.
	Tuning group.Tuning

	// SlowDisk is how long a write to the log with its sync may take on average. When
	// it takes longer for some seconds, the store hands its leaderships to others
	// that are caught up, as far as they are not slow themselves, and lets others
	// campaign first, until it takes less than half of this for some time. Zero means
	// a tenth of the election time-out, 100 ms by default; negative: no matter how
	// long.
	SlowDisk time.Duration
	// HungDisk is how long one write to the log or its sync may be under way. After
	// two thirds of it leaderships are handed over as on a slow disk; after all of it
	// leaders step down and replicas of this store do not campaign, until the log
	// answers. It must be shorter than an election time-out, so that a leader whose
	// writes do not end is not kept alive by its heartbeats. Zero means three quarters
	// of the election time-out, 750 ms by default; negative: leaders stay.
	HungDisk time.Duration
	// HandOverTimeout is how long Close waits for other stores to take over the
	// leaderships of this one, as long as they do. Zero means 5 s; negative: Close hands
	// nothing over, and others campaign when they miss their leaders.
	HandOverTimeout time.Duration
	// CloseTimeout is how long Close waits for a log that does not answer before it
	// gives up with [*DiskHungError]. Zero means 10 s.
	CloseTimeout time.Duration

	// MaxGroups bounds the groups that run on this store. Zero means 1,000,000.
	MaxGroups int
	// MaxCommandBytes bounds one command. Zero means 1 MiB.
	MaxCommandBytes int
	// MaxInflightBytes bounds the commands of this store that are proposed and
	// not completed. Zero means 256 MiB.
	MaxInflightBytes int64
	// MaxGroupInflightBytes bounds the same for one group. Zero means 16 MiB.
	MaxGroupInflightBytes int64
	// CacheBytes bounds what groups keep in memory of entries that are durable
	// and applied, for followers that are behind. Zero means 64 MiB.
	CacheBytes int64
	// MaxApplyBytes bounds committed entries that wait for state machines.
	// Zero means 64 MiB.
	MaxApplyBytes int64
	// MaxReceiveBytes bounds received entries that wait for their group's
	// turn; appends above it are dropped and sent again later. Zero means
	// 64 MiB.
	MaxReceiveBytes int64

	// Join is called when a replica was added to a group on this store, which does
	// not run it yet. It returns the state machine, and what else GroupConfig has
	// besides ID, Replica, Members and Join, which the store fills in, and Snapshot,
	// which is refused: the state of a group that runs comes from its leader. An older
	// replica of the group is gone from the store by then, and what its machine has
	// kept can go too. Up to four calls run at a time, one per group; they are made
	// again, some time after an error. Nil: such replicas are started by StartGroup.
	// Only learners are joined that way, as AddReplica adds them: a store that has lost
	// the disk with its voters does not begin them anew.
	Join func(JoinRequest) (GroupConfig, error)
	// Events are called when something happens.
	Events Events
	// SnapshotEntries is after how many applied entries a state machine that makes
	// snapshots ([Snapshotter]) has its next one made, whose log is then compacted.
	// Zero means 100,000: a restart replays about as many in a fraction of a second.
	SnapshotEntries uint64
	// SnapshotBytes is the same in bytes of commands, whichever comes first. Zero
	// means 64 MiB, one segment of the log. Both wait until as much was applied as a
	// quarter of the last snapshot, so that large states are not written too often.
	SnapshotBytes int64
	// KeepEntries is how many entries in front of a snapshot stay in the log, for
	// followers that are not far behind. Zero means 10,000.
	KeepEntries uint64
	// MaxSnapshots bounds the snapshots that are made, that are sent, and that are
	// received, each, at a time. Zero means 4.
	MaxSnapshots int
	// SnapshotBytesPerSecond bounds the bytes of snapshots sent, received and
	// written by state machines, each. Zero means 64 MiB.
	SnapshotBytesPerSecond int64
	// SnapshotChunkBytes is the size of the pieces in which snapshots are checked
	// and sent, 512 bytes to 1 MiB. Zero means 256 KiB.
	SnapshotChunkBytes int

	// DigestEntries is after how many entries the replicas of a group compare what
	// their state machines made of them. It must be the same on all stores, or those
	// that differ are not compared. Zero means 1,024: two messages per follower each.
	DigestEntries uint64
	// NoDigests leaves that out, for machines of which replicas may give different
	// results. On by default, because [StateMachine] rules such machines out, and a
	// state that has diverged unnoticed spreads: to reads, and by snapshots.
	NoDigests bool

	// ForwardProposals has replicas that do not lead send proposals to the leader,
	// instead of refusing them with [*NotLeaderError]. Off by default: a client
	// that is told the leader goes there itself, which saves a hop and both stores
	// the work, and a proposal on another store may end in ErrNoAnswer, where a
	// refusal would have been certain. All stores take what others forward.
	ForwardProposals bool

	// Clock is what leases, see Tuning.LeaseReads, and the age of stale reads are
	// measured with. Nil means the system's, on Linux CLOCK_BOOTTIME; a stepped store
	// has one of its own.
	Clock Clock

	// Seed of the election time-outs. Zero means a random one.
	Seed uint64
	// Logger receives what an operator should see. Nil means silence.
	Logger *zap.Logger
}

// withDefaults returns a copy in which every zero value is replaced.
func (c Config) withDefaults() Config {
	half := max(1, runtime.GOMAXPROCS(0)/2)
	set(&c.Workers, half)
	set(&c.Appliers, half)
	set(&c.TickInterval, 50*time.Millisecond)
	set(&c.SegmentBytes, 64<<20)
	set(&c.MaxProtocol, wire.ProtocolVersion)
	tuning := c.Tuning.WithDefaults()
	set(&c.SlowDisk, max(1, time.Duration(tuning.ElectionTicks)*c.TickInterval/10))
	set(&c.HungDisk, time.Duration(hungTicks(&tuning))*c.TickInterval)
	set(&c.CloseTimeout, 10*time.Second)
	set(&c.HandOverTimeout, 5*time.Second)
	set(&c.MaxGroups, 1_000_000)
	set(&c.MaxCommandBytes, 1<<20)
	set(&c.MaxInflightBytes, 256<<20)
	set(&c.MaxGroupInflightBytes, 16<<20)
	set(&c.CacheBytes, 64<<20)
	set(&c.MaxApplyBytes, 64<<20)
	set(&c.MaxReceiveBytes, 64<<20)
	set(&c.SnapshotEntries, 100_000)
	set(&c.SnapshotBytes, 64<<20)
	set(&c.KeepEntries, 10_000)
	set(&c.DigestEntries, 1024)
	set(&c.MaxSnapshots, 4)
	set(&c.SnapshotBytesPerSecond, 64<<20)
	set(&c.SnapshotChunkBytes, snapfile.DefaultChunkBytes)
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return c
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports all faults of the configuration at once, each as a
// [*ConfigError]. It changes nothing.
func (c Config) Validate() error {
	var faults []error
	fault := func(field string, value any, rule string) {
		faults = append(faults, &ConfigError{Field: field, Value: value, Rule: rule})
	}
	if c.Cluster == 0 {
		fault("Cluster", c.Cluster, "must not be zero")
	}
	if c.ID == 0 {
		fault("ID", c.ID, "must not be zero")
	}
	if c.Dir == "" {
		fault("Dir", `""`, "must name a directory")
	}
	if c.Transport == nil && c.Listen == "" {
		fault("Listen", `""`, "must be an address when there is no Transport")
	}
	if _, ok := c.Peers[0]; ok {
		fault("Peers", "store 0", "is not a store")
	}
	if err := c.Limits.Validate(); err != nil {
		faults = append(faults, err)
	}
	c = c.withDefaults()
	const mib = 1 << 20
	for _, f := range []struct {
		field    string
		value    int64
		low, top int64
		rule     string
	}{
		{"Workers", int64(c.Workers), 1, scheduler.MaxWorkers, fmt.Sprintf("must be 1 to %d", scheduler.MaxWorkers)},
		{"Appliers", int64(c.Appliers), 1, 1024, "must be 1 to 1024"},
		{"TickInterval", int64(c.TickInterval), int64(time.Millisecond), int64(time.Minute), "ns must be 1 ms to 1 min"},
		{"SegmentBytes", c.SegmentBytes, 64 << 10, 1 << 30, "must be 64 KiB to 1 GiB"},
		{"MaxProtocol", int64(c.MaxProtocol), wire.MinProtocolVersion, wire.ProtocolVersion,
			fmt.Sprintf("must be %d to %d", wire.MinProtocolVersion, wire.ProtocolVersion)},
		{"MaxGroups", int64(c.MaxGroups), 1, 1 << 24, "must be 1 to 16777216"},
		{"MaxCommandBytes", int64(c.MaxCommandBytes), 1, 32 * mib, "must be 1 to 32 MiB"},
		{"MaxGroupInflightBytes", c.MaxGroupInflightBytes, 1, 1 << 40, "must be positive"},
		{"MaxInflightBytes", c.MaxInflightBytes, 1, 1 << 40, "must be positive"},
		{"CacheBytes", c.CacheBytes, 1, 1 << 40, "must be positive"},
		{"MaxApplyBytes", c.MaxApplyBytes, 1, 1 << 40, "must be positive"},
		{"MaxReceiveBytes", c.MaxReceiveBytes, 1, 1 << 40, "must be positive"},
		{"SnapshotBytes", c.SnapshotBytes, 1, 1 << 60, "must be positive"},
		{"MaxSnapshots", int64(c.MaxSnapshots), 1, 1024, "must be 1 to 1024"},
		{"SnapshotBytesPerSecond", c.SnapshotBytesPerSecond, 1 << 10, 1 << 40, "must be 1 KiB to 1 TiB"},
		{"SnapshotChunkBytes", int64(c.SnapshotChunkBytes), snapfile.MinChunkBytes, snapfile.MaxChunkBytes, "must be 512 to 1048576"},
	} {
		if f.value < f.low || f.value > f.top {
			fault(f.field, f.value, f.rule)
		}
	}
	election := spanOf(c.Tuning.WithDefaults().ElectionTicks, c.TickInterval)
	if c.SlowDisk > time.Hour {
		fault("SlowDisk", c.SlowDisk, "must be at most 1 h")
	}
	if c.HungDisk > 0 && (c.HungDisk < c.TickInterval || c.HungDisk >= election) {
		fault("HungDisk", c.HungDisk, fmt.Sprintf("must be at least a tick (%v) and shorter than an election time-out (%v)", c.TickInterval, election))
	}
	if c.CloseTimeout < 0 {
		fault("CloseTimeout", c.CloseTimeout, "must not be negative")
	}
	if c.DigestEntries > 1<<32 {
		fault("DigestEntries", c.DigestEntries, "must not exceed 4294967296")
	}
	if c.MaxGroupInflightBytes > c.MaxInflightBytes {
		fault("MaxGroupInflightBytes", c.MaxGroupInflightBytes, "must not exceed MaxInflightBytes")
	}
	if int64(wire.PayloadBytes(c.MaxCommandBytes)) > c.MaxGroupInflightBytes {
		fault("MaxCommandBytes", c.MaxCommandBytes, "must fit into MaxGroupInflightBytes, with 4 bytes for its length")
	}
	if int64(c.MaxCommandBytes) > c.SegmentBytes/4 {
		fault("MaxCommandBytes", c.MaxCommandBytes, "must not exceed a quarter of SegmentBytes")
	}
	if err := c.Tuning.Validate(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// GroupConfig says what StartGroup starts.
type GroupConfig struct {
	// ID of the group, the same on all stores. Must not be zero.
	ID wire.GroupID
	// Members are those that the group begins with, in the same order on every
	// store: the voter at place ID mod their number leads first. When the group is
	// stored already they may be left out, or must be the stored ones until the
	// membership was changed for the first time; from then on they are not looked
	// at, nor are they for a replica that was added.
	Members []Member
	// Join starts a replica that was added to a group which runs already. Members
	// are left out, and entries come from the leader. When the store holds a
	// replica of the group with a lower id, that one has been removed, or the new
	// one could not be on this store: what is left of it is dropped. Whoever empties
	// what the machine of the older one has kept calls RemoveGroup before that.
	Join bool
	// Replica is the id that a replica was added with. Without Join it may be left
	// out.
	Replica wire.ReplicaID
	// StateMachine is called until the group stops.
	StateMachine StateMachine
	// Priority says which replicas should rather lead: when one of higher
	// priority is up and caught up, a leader of lower priority hands over to it,
	// and after a restart it campaigns first. Replicas that are not named have
	// priority 0. It should be the same on all stores; groups may share a map,
	// which must not change.
	Priority map[wire.ReplicaID]uint8
	// Snapshot names a file that [Group.ExportSnapshot] wrote, of this group or of
	// any other, in this cluster or another. A group that is not stored yet then
	// begins with that state, and with Members, which must be given the same file
	// on all stores. It must be left out when the group is stored already, and with
	// Join.
	Snapshot string
	// Skip names entries that are not given to the state machine, because it fails on
	// them: see [*ApplyError]. All replicas must leave out the same ones, in every start
	// until a snapshot holds what is behind them, and with Join too; otherwise their
	// states differ from then on. Commands that are left out take no effect.
	Skip []wire.Index
	// SnapshotEntries, SnapshotBytes and KeepEntries take the place of those of the
	// store, unless they are zero.
	SnapshotEntries uint64
	SnapshotBytes   int64
	KeepEntries     uint64
	// NoDigests says that replicas may give different results for the same entries, so
	// that they are not compared; see Config.NoDigests. A replica that was stopped
	// because of them is started again.
	NoDigests bool
}
