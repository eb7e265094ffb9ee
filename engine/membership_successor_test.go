package engine_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"multiraft/batch"
	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/raftlog"
	"multiraft/wire"
)

// changeOne changes one member of group 1 by way of its leader, and steps until that
// is done.
func (c *snapCluster) changeOne(change group.Change) {
	c.t.Helper()
	done := false
	err := c.group(c.leader(1), 1).ChangeMembersAsync(group.MembershipChange{Changes: []group.Change{change}}, func(_ engine.Membership, err error) {
		if done = true; err != nil {
			c.t.Error(err)
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.until("change of the members", func() bool { return done })
}

// leadElsewhere has group 1 led by another store than the one at a place.
func (c *snapCluster) leadElsewhere(at int) {
	c.t.Helper()
	c.leader(1)
	if g := c.group(at, 1); g.IsLeader() {
		if err := c.places[at].steps.TransferLeader(g, wire.ReplicaID((at+1)%len(c.places)+1)); err != nil {
			c.t.Fatal(err)
		}
		c.until("transfer", func() bool { return !c.group(at, 1).IsLeader() && c.leader(1) != at })
	}
}

// say has a store hear a message of store 1, about group 1 if it names none.
func (c *snapCluster) say(at int, m wire.Message) {
	c.t.Helper()
	m.Group = max(m.Group, 1)
	b := batch.NewBuilder(func() []byte { return nil }, 0)
	b.Add(&m)
	err := b.Flush(func(_ wire.Lane, payload []byte) error { c.places[at].handler.HandleFrame(1, payload); return nil })
	if err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

// A store tells candidates that ask a replica which was removed what it knows to be
// committed, whether or not a successor runs. To other stores it has nothing to say.
func TestStoreSpeaksForRemovedReplicas(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.mustOpen(0, 1, 2)
	c.write(1, 5)
	c.leadElsewhere(2)
	var heard []wire.Message
	c.pass = func(from, to wire.StoreID, m *wire.Message) bool {
		if from == 3 && to == 1 && m.Reject && (m.Kind == wire.PreVoteResponse || m.Kind == wire.VoteResponse) {
			heard = append(heard, *m)
		}
		return true
	}
	ask := func(name string, m wire.Message, want ...wire.Message) {
		t.Helper()
		heard = nil
		c.say(2, m)
		if !slices.EqualFunc(heard, want, func(a, b wire.Message) bool { return reflect.DeepEqual(a, b) }) {
			t.Errorf("%s: heard %+v, want %+v", name, heard, want)
		}
	}
	preVote := wire.Message{Kind: wire.PreVote, From: 1, To: 3, Term: 9, Index: 1, LogTerm: 1}
	vote := preVote
	vote.Kind = wire.Vote
	c.changeOne(group.Change{Op: group.Remove, Replica: 3})
	c.until("tombstone", func() bool { _, runs := c.places[2].store.Group(1); return !runs })
	at := c.group(c.leader(1), 1).Membership().Index
	refusal := wire.Message{Kind: wire.PreVoteResponse, Group: 1, From: 3, To: 1, Term: 8, Reject: true, Commit: at, LogTerm: 1}
	refused := refusal
	refused.Kind, refused.Term = wire.VoteResponse, 9
	ask("tombstone, pre-vote", preVote, refusal)
	ask("tombstone, vote", vote, refused)
	later, wrong := preVote, preVote
	later.To, wrong.Term = 4, 0
	ask("nobody yet", later)
	ask("no term", wrong)
	other := preVote
	other.Group = 2
	ask("another group", other)

	c.changeOne(group.Change{Op: group.AddLearner, Replica: 4, Store: 3})
	successor, err := c.places[2].store.StartGroup(t.Context(), engine.GroupConfig{ID: 1, Replica: 4, Join: true, StateMachine: &book{}})
	if err != nil {
		t.Fatal(err)
	}
	c.until("successor", func() bool { return successor.Applied() > at })
	refusal.Commit, refused.Commit = c.group(2, 1).Applied(), c.group(2, 1).Applied()
	ask("successor, pre-vote", preVote, refusal)
	ask("successor, vote", vote, refused)

	c.places[2].fs.SetHook(func(vfs.Op) vfs.Fault { return vfs.Fault{Err: errors.New("broken")} })
	c.write(1, 1)
	c.until("failure", func() bool { return c.places[2].store.Err() != nil })
	ask("store that has failed", preVote)
}

// A removed replica is let go of by StopGroup before the event loop comes to it. Its
// successor begins, and installs a snapshot, which is its own to keep.
func TestSuccessorKeepsItsSnapshot(t *testing.T) {
	var told []wire.ReplicaID
	c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) {
		cfg.Events.ReplicaRemoved = func(err *engine.ReplicaRemovedError) { told = append(told, err.Replica) }
	})
	c.mustOpen(0, 1, 2)
	c.write(1, 150)
	c.leadElsewhere(2)
	p := c.places[2]
	p.noEvents = true
	c.changeOne(group.Change{Op: group.Remove, Replica: 3})
	buried := func() bool { return len(p.steps.Stored(1).Meta()) > 0 && p.steps.Stored(1).Last() == 0 }
	c.until("tombstone", buried)
	if !p.steps.StopGroup(1) {
		t.Fatal("a replica that was buried has not stopped")
	}
	if files := p.snapshotFiles(t); len(files) != 0 {
		t.Errorf("the removed replica left %v", files)
	}
	c.changeOne(group.Change{Op: group.AddLearner, Replica: 4, Store: 3})
	b := &book{}
	p.books[1] = b
	if _, err := p.store.StartGroup(t.Context(), engine.GroupConfig{ID: 1, Replica: 4, Join: true, StateMachine: b}); err != nil {
		t.Fatal(err)
	}
	c.until("snapshot", func() bool { return len(b.commands) == 150 && b.restores == 1 })
	had := p.snapshotFiles(t)
	p.noEvents = false
	c.settle()
	if files := p.snapshotFiles(t); len(had) != 1 || !slices.Equal(files, had) {
		t.Errorf("the successor had %v, the event loop left %v", had, files)
	}
	if !slices.Equal(told, []wire.ReplicaID{3}) {
		t.Errorf("removed, as the host was told: %v", told)
	}
	c.crash(2, vfs.ProcessDies)
	if err := c.open(2); err != nil {
		t.Fatal(err)
	}
	c.until("restart", func() bool { return len(p.books[1].commands) == 150 })
}

// A replica that joins by a snapshot crashes when the snapshot is durable and the log
// knows nothing of it. It finds at its start that it was added.
func TestJoinerLearnsFromItsSnapshot(t *testing.T) {
	c := newSnapCluster(t, 3, []wire.GroupID{1}, nil)
	c.mustOpen(0, 1, 2)
	c.write(1, 150)
	c.leadElsewhere(2)
	p := c.places[2]
	c.changeOne(group.Change{Op: group.Remove, Replica: 3})
	c.until("end of the old replica", func() bool { _, running := p.store.Group(1); return !running })
	c.changeOne(group.Change{Op: group.AddLearner, Replica: 4, Store: 3})
	c.write(1, 100) // the membership is in the snapshots from here on
	start := func() *engine.Group {
		b := &book{}
		p.books[1] = b
		g, err := p.store.StartGroup(t.Context(), engine.GroupConfig{ID: 1, Replica: 4, Join: true, StateMachine: b})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	if g := start(); !g.Joins() {
		t.Fatal("knows at once that it is a member")
	}
	p.noLog = func() bool { return len(p.snapshotFiles(t)) > 0 }
	c.until("snapshot", func() bool { return len(p.snapshotFiles(t)) > 0 })
	c.tick(3)
	if p.steps.Stored(1).Last() != 0 {
		t.Fatal("the install is in the log")
	}
	c.crash(2, vfs.ProcessDies)
	p.noLog = nil
	c.groups = nil
	if err := c.open(2); err != nil {
		t.Fatal(err)
	}
	c.groups = []wire.GroupID{1}
	g := start()
	if p.steps.Stored(1).Last() == 0 || p.books[1].restores != 1 {
		t.Fatal("the install was not finished")
	}
	if g.Joins() {
		t.Error("does not know that it is a member")
	}
}

// A replica that was stopped is superseded before it is let go of: what it has stored
// is still all that the store has of the group. Nobody is told that it is gone, and its
// snapshots stay, until a tombstone is durable.
func TestStoppedReplicaIsSuperseded(t *testing.T) {
	var told []wire.ReplicaID
	c := newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) {
		if cfg.ID == 3 {
			cfg.Events.ReplicaRemoved = func(err *engine.ReplicaRemovedError) { told = append(told, err.Replica) }
			cfg.Join = func(engine.JoinRequest) (engine.GroupConfig, error) {
				return engine.GroupConfig{}, errors.New("not now")
			}
		}
	})
	c.mustOpen(0, 1, 2)
	c.write(1, 150)
	c.leadElsewhere(2)
	p := c.places[2]
	c.pass = func(from, to wire.StoreID, _ *wire.Message) bool { return from != 3 && to != 3 }
	c.changeOne(group.Change{Op: group.Remove, Replica: 3})
	c.changeOne(group.Change{Op: group.AddLearner, Replica: 4, Store: 3})
	files := p.snapshotFiles(t)
	p.noEvents = true
	if p.steps.StopGroup(1) {
		t.Fatal("stopped at once")
	}
	c.settle() // it has ended, and is still listed
	c.say(2, wire.Message{Kind: wire.Join, From: 1, To: 4})
	c.pass = nil
	p.steps.StopGroup(1)
	stored, err := p.store.Stored()
	if err != nil || len(stored) != 1 || stored[0].Replica != 3 {
		t.Fatalf("stored: %+v, %v", stored, err)
	}
	if now := p.snapshotFiles(t); len(files) == 0 || !slices.Equal(now, files) || len(told) > 0 {
		t.Errorf("snapshots %v, then %v; told of %v", files, now, told)
	}
	p.noEvents = false
	c.until("tombstone", func() bool { return len(told) > 0 })
	if stored, err := p.store.Stored(); err != nil || len(stored) > 0 || !slices.Equal(told, []wire.ReplicaID{3}) {
		t.Errorf("stored: %+v, %v; told of %v", stored, err, told)
	}
	if now := p.snapshotFiles(t); len(now) > 0 {
		t.Errorf("snapshots of the older replica: %v", now)
	}
}

// A store that does not run what it has of a group is asked to run a later replica.
// Before the embedder hears of that, which may then empty the machine of the older one,
// the older one is gone for good.
func TestOlderReplicaIsGoneBeforeJoin(t *testing.T) {
	var c *snapCluster
	asked := 0
	c = newSnapCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) {
		if cfg.ID != 3 {
			return
		}
		cfg.Join = func(req engine.JoinRequest) (engine.GroupConfig, error) {
			asked++
			disk, err := raftlog.Inspect(raftlog.Options{Dir: "/store", FS: c.places[2].fs.CrashClone(c.r, vfs.AllLost)})
			if err != nil {
				t.Fatal(err)
			}
			var stored wire.Stored
			if err := stored.Decode(disk.Group(1).Meta()); err != nil || stored.Descriptor.State != wire.Gone || stored.Descriptor.Replica != 3 {
				t.Errorf("asked with %+v stored, error %v", stored, err)
			}
			return engine.GroupConfig{}, errors.New("not now")
		}
	})
	c.mustOpen(0, 1, 2)
	c.write(1, 5)
	c.leadElsewhere(2)
	c.crash(2, vfs.ProcessDies)
	c.changeOne(group.Change{Op: group.Remove, Replica: 3})
	c.changeOne(group.Change{Op: group.AddLearner, Replica: 4, Store: 3})
	c.groups = nil
	c.mustOpen(2)
	c.until("the embedder is asked", func() bool { return asked > 0 })
}
