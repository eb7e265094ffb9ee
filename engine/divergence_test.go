package engine_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cespare/xxhash/v2"

	"multiraft/batch"
	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

// warped is a book that can be made to diverge: from some entry on its state is
// another one, and so are, if that shows, its results.
type warped struct {
	*book
	from   *wire.Index // zero: never
	silent bool        // the results are as they should be
}

func (w warped) Apply(entries []engine.Entry) error {
	if err := w.book.Apply(entries); err != nil {
		return err
	}
	for i := range entries {
		if *w.from != 0 && entries[i].Index >= *w.from && !w.silent {
			entries[i].Result.Data = []byte("other")
		}
	}
	return nil
}

// digested is one that tells a digest of its state.
type digested struct{ warped }

func (d digested) Digest() uint64 {
	h := xxhash.New()
	for i, command := range d.commands {
		if *d.from != 0 && d.applied[i] >= *d.from {
			command = "other"
		}
		_, _ = h.WriteString(command) // a hash takes everything
	}
	return h.Sum64()
}

// warpCluster is stepped stores whose machines can be made to diverge.
type warpCluster struct {
	*snapCluster
	from     []wire.Index // by place
	failed   map[wire.StoreID]error
	differed int
}

const warpEvery = 8

func newWarpCluster(t *testing.T, stores int, silent, states bool, change func(*engine.Config)) *warpCluster {
	c := makeWarpCluster(t, stores, silent, states, change)
	for at := range stores {
		c.mustOpen(at)
	}
	return c
}

// makeWarpCluster returns one whose stores are to be opened.
func makeWarpCluster(t *testing.T, stores int, silent, states bool, change func(*engine.Config)) *warpCluster {
	c := &warpCluster{from: make([]wire.Index, stores), failed: map[wire.StoreID]error{}}
	c.snapCluster = newSnapCluster(t, stores, []wire.GroupID{1}, func(cfg *engine.Config) {
		cfg.DigestEntries = warpEvery
		id := cfg.ID
		cfg.Events.GroupFailed = func(err *engine.GroupFailedError) { c.failed[id] = err }
		cfg.Events.ReplicasDiffer = func(wire.GroupID) { c.differed++ }
		if change != nil {
			change(cfg)
		}
	})
	c.linked = true
	c.wrap = func(p *place, _ wire.GroupID, b *book) engine.StateMachine {
		w := warped{book: b, from: &c.from[p.id-1], silent: silent}
		if states {
			return digested{w}
		}
		return w
	}
	return c
}

// warp has the machine of a store diverge with its next entry.
func (c *warpCluster) warp(at int) { c.from[at] = c.group(at, 1).Applied() + 1 }

// expectDiverged waits until the replica of a store has stopped because it diverged.
func (c *warpCluster) expectDiverged(at int) {
	c.t.Helper()
	id := wire.StoreID(at + 1)
	c.until(fmt.Sprintf("store %d stops", id), func() bool { return c.failed[id] != nil })
	var failed *engine.GroupFailedError
	var diverged *engine.DivergedError
	if !errors.As(c.failed[id], &failed) || !errors.As(c.failed[id], &diverged) {
		c.t.Fatalf("store %d stopped with %v", id, c.failed[id])
	}
	if diverged.Group != 1 || diverged.Replica != wire.ReplicaID(id) || diverged.Index < c.from[at] || diverged.Index%warpEvery != 0 {
		c.t.Errorf("store %d diverged from entry %d: %+v", id, c.from[at], diverged)
	}
	if m := c.places[at].store.Metrics(); m.DivergedReplicas != 1 || m.FailedGroups != 1 {
		c.t.Errorf("store %d counts %d diverged replicas and %d failed groups", id, m.DivergedReplicas, m.FailedGroups)
	}
}

// expectSound checks that the replicas of stores run and agree about all that they
// can have compared.
func (c *warpCluster) expectSound(places ...int) {
	c.t.Helper()
	c.write(1, 1)
	c.tick(50)
	for _, at := range places {
		st := c.group(at, 1).Status()
		if st.Err != nil {
			c.t.Errorf("store %d: %v", at+1, st.Err)
		}
		if last := st.Applied / warpEvery * warpEvery; st.Agreed != last {
			c.t.Errorf("store %d agrees up to %d, want %d", at+1, st.Agreed, last)
		}
		if m := c.places[at].store.Metrics(); m.UndecidedDigests != 0 || m.BadFrames != 0 || m.UnspokenMessages != 0 {
			c.t.Errorf("store %d: %+v", at+1, m)
		}
	}
}

// follower returns a place that does not lead.
func (c *warpCluster) follower() int { return (c.leader(1) + 1) % len(c.places) }

// A replica whose machine gives another result, or says that its state is another,
// stops; the others go on; and it does not start again from what it has.
func TestDivergedFollowerStops(t *testing.T) {
	for _, states := range []bool{false, true} {
		c := newWarpCluster(t, 3, states, states, nil)
		c.write(1, 50)
		c.expectSound(0, 1, 2)
		bad := c.follower()
		others := []int{(bad + 1) % 3, (bad + 2) % 3}
		c.warp(bad)
		c.write(1, 2*warpEvery)
		c.expectDiverged(bad)
		c.expectSound(others...)

		if err := c.group(bad, 1).ReadLocalAsync(nil, func(any, engine.Staleness, error) {}); !errors.As(err, new(*engine.DivergedError)) {
			t.Errorf("a read on the diverged replica: %v", err)
		}
		for _, o := range []vfs.CrashOptions{vfs.ProcessDies, vfs.AllLost} {
			c.crash(bad, o)
			var diverged *engine.DivergedError
			if err := c.open(bad); !errors.As(err, &diverged) || diverged.Replica != wire.ReplicaID(bad+1) {
				t.Fatalf("states=%v: the diverged replica was started again: %v", states, err)
			}
		}
		stored, err := c.places[bad].store.Stored()
		if err != nil || len(stored) != 1 || !stored[0].Diverged {
			t.Errorf("stored: %+v, %v", stored, err)
		}
		c.expectSound(others...)
	}
}

// A leader that finds that it has diverged hands over before it stops: there is no
// time without a leader. When nobody can take over, it stops all the same.
func TestDivergedLeaderHandsOver(t *testing.T) {
	for _, alone := range []bool{false, true} {
		c := newWarpCluster(t, 3, false, false, nil)
		c.write(1, 50)
		bad := c.leader(1)
		if alone {
			c.pass = func(_, _ wire.StoreID, m *wire.Message) bool { return m.Kind != wire.TimeoutNow }
		}
		c.warp(bad)
		for i := range 2 * warpEvery {
			if c.leader(1) != bad {
				break
			}
			if err := c.group(bad, 1).ProposeAsync([]byte{byte(i)}, engine.NewPending(&c.count)); err != nil {
				break // it hands over
			}
			c.settle()
		}
		ticks := 0
		for ; c.failed[wire.StoreID(bad+1)] == nil && ticks < 200; ticks++ {
			c.tick(1)
		}
		c.expectDiverged(bad)
		next := c.leader(1)
		if next == bad {
			t.Fatal("the diverged replica leads")
		}
		electionTicks := 20
		if !alone && ticks >= electionTicks {
			t.Errorf("it took %d ticks to hand over", ticks)
		}
		c.expectSound((bad+1)%3, (bad+2)%3)
	}
}

func TestDivergedMinorityOfFive(t *testing.T) {
	c := newWarpCluster(t, 5, false, false, nil)
	c.write(1, 20)
	first := c.leader(1)
	second := (first + 1) % 5
	c.warp(first)
	c.warp(second)
	for i := range 3 * warpEvery {
		at := c.leader(1)
		_ = c.group(at, 1).ProposeAsync([]byte{byte(i)}, engine.NewPending(&c.count)) // or it hands over
		c.tick(2)
	}
	c.expectDiverged(first)
	c.expectDiverged(second)
	c.expectSound((first+2)%5, (first+3)%5, (first+4)%5)
}

// With one voter against another nobody can tell which is right: both go on, and an
// operator hears of it. A learner does not decide.
func TestDivergenceWithoutMajority(t *testing.T) {
	c := newWarpCluster(t, 2, false, false, nil)
	c.write(1, 20)
	c.expectSound(0, 1)
	c.warp(1)
	c.write(1, 2*warpEvery)
	c.until("an event", func() bool { return c.differed > 0 })
	for at := range c.places {
		if err := c.group(at, 1).Err(); err != nil {
			t.Errorf("store %d: %v", at+1, err)
		}
	}
	if m := c.places[c.leader(1)].store.Metrics(); m.UndecidedDigests == 0 || m.DivergedReplicas != 0 {
		t.Errorf("%+v", m)
	}
}

// A learner that diverges stops, and with one of two voters it decides nothing.
func TestLearnersAreComparedAndDoNotDecide(t *testing.T) {
	for _, voter := range []bool{false, true} {
		c := makeWarpCluster(t, 3, false, false, nil)
		c.members[2].Role = wire.Learner
		c.mustOpen(0, 1, 2)
		c.write(1, 20)
		c.expectSound(0, 1, 2)
		if !voter {
			c.warp(2)
			c.write(1, 2*warpEvery)
			c.expectDiverged(2)
			c.expectSound(0, 1)
			continue
		}
		c.warp(1)
		c.write(1, 2*warpEvery)
		c.until("an event", func() bool { return c.differed > 0 })
		if len(c.failed) > 0 {
			t.Errorf("%v", c.failed)
		}
	}
}

// Of three voters one is away and two differ: that is told once it is clear that
// nothing more is heard, and settled when the third is back.
func TestDivergenceWaitsForTheThird(t *testing.T) {
	c := newWarpCluster(t, 3, false, true, nil)
	c.write(1, 20)
	away := c.follower()
	c.crash(away, vfs.ProcessDies)
	lead := c.leader(1)
	bad := 3 - away - lead
	c.warp(bad)
	c.write(1, 12*warpEvery)
	c.until("an event", func() bool { return c.differed > 0 })
	if len(c.failed) > 0 {
		t.Fatalf("%v", c.failed)
	}
	c.mustOpen(away)
	c.write(1, 3*warpEvery)
	c.expectDiverged(bad)
	c.tick(50)
	for _, at := range []int{lead, away} {
		st := c.group(at, 1).Status()
		if last := st.Applied / warpEvery * warpEvery; st.Err != nil || st.Agreed != last {
			t.Errorf("store %d agrees up to %d, want %d: %v", at+1, st.Agreed, last, st.Err)
		}
	}
}

// Digests that are lost are told again, and to the next leader as well.
func TestLostDigestsAreToldAgain(t *testing.T) {
	c := newWarpCluster(t, 3, false, false, nil)
	c.write(1, 20)
	c.pass = func(_, _ wire.StoreID, m *wire.Message) bool {
		return m.Kind != wire.Digest && m.Kind != wire.DigestResponse
	}
	bad := c.follower()
	c.warp(bad)
	c.write(1, warpEvery) // all of them, and nobody hears of it
	c.from[bad] = 0
	if len(c.failed) > 0 {
		t.Fatal(c.failed)
	}
	c.pass = nil
	c.warped(bad, func() { c.write(1, 6*warpEvery) })

	c = newWarpCluster(t, 3, false, false, nil)
	c.write(1, 20)
	lead := c.leader(1)
	c.pass = func(_, to wire.StoreID, m *wire.Message) bool { return m.Kind != wire.Digest || int(to) != lead+1 }
	bad = c.follower()
	c.warp(bad)
	c.write(1, 2*warpEvery)
	c.from[bad] = 0
	c.tick(100)
	if len(c.failed) > 0 {
		t.Fatal(c.failed)
	}
	next := 3 - lead - bad
	c.warped(bad, func() {
		if err := c.places[lead].steps.TransferLeader(c.group(lead, 1), wire.ReplicaID(next+1)); err != nil {
			t.Fatal(err)
		}
	})
}

// warped checks that a replica that had diverged for a while is found after do,
// which it does not differ in.
func (c *warpCluster) warped(bad int, do func()) {
	c.t.Helper()
	c.from[bad] = 0
	do()
	c.until("the diverged replica stops", func() bool { return c.failed[wire.StoreID(bad+1)] != nil })
	if err := c.failed[wire.StoreID(bad+1)]; !errors.As(err, new(*engine.DivergedError)) || len(c.failed) > 1 {
		c.t.Errorf("%v", c.failed)
	}
}

// Replicas that crash, start again from snapshots within a range, or get their state
// from another one are not taken for diverged, and are compared again soon.
func TestSoundReplicasStayThroughRestarts(t *testing.T) {
	for _, states := range []bool{false, true} {
		c := newWarpCluster(t, 3, false, states, nil)
		for round := range 12 {
			c.write(1, 13+round)
			at := round % 3
			c.crash(at, vfs.ProcessDies)
			c.write(1, 7)
			if round%4 == 3 {
				c.tick(50)
				c.write(1, 150) // the log is compacted behind it
			}
			c.mustOpen(at)
			c.until("together", func() bool {
				return c.group(at, 1).Applied() == c.group(c.leader(1), 1).Applied()
			})
		}
		c.write(1, 2*warpEvery)
		c.expectSound(0, 1, 2)
		if len(c.failed) > 0 || c.differed > 0 {
			t.Errorf("states=%v: %v failed, %d times undecided", states, c.failed, c.differed)
		}
	}
}

// What a machine without a durable state made of entries is compared anew after a
// restart, so that one that replays them into another state is found.
func TestDivergenceInReplayIsFound(t *testing.T) {
	c := newWarpCluster(t, 3, false, false, func(cfg *engine.Config) { cfg.SnapshotEntries = 1 << 30 })
	c.write(1, 4*warpEvery)
	c.expectSound(0, 1, 2)
	bad := c.follower()
	c.crash(bad, vfs.ProcessDies)
	c.from[bad] = 2*warpEvery + 1
	c.mustOpen(bad)
	c.expectDiverged(bad)
}

// A store of an older protocol takes no part, as a follower or as the leader, and
// does once it speaks the new one.
func TestDivergenceWithOlderStores(t *testing.T) {
	old := map[wire.StoreID]bool{}
	c := newWarpCluster(t, 3, false, false, func(cfg *engine.Config) {
		if old[cfg.ID] {
			cfg.MaxProtocol = 1
		}
	})
	lead := c.leader(1)
	reopen := func(at int) {
		c.close(at)
		c.mustOpen(at)
	}
	old[wire.StoreID(lead+1)] = true
	reopen(lead)
	c.tick(100)
	if at := c.leader(1); at != lead {
		if err := c.places[at].steps.TransferLeader(c.group(at, 1), wire.ReplicaID(lead+1)); err != nil {
			t.Fatal(err)
		}
		c.tick(20)
	}
	c.until("the old store leads", func() bool { return c.leader(1) == lead })
	bad := (lead + 1) % 3
	c.warp(bad)
	c.write(1, 4*warpEvery)
	c.tick(50)
	if len(c.failed) > 0 || c.differed > 0 {
		t.Fatalf("an old leader compared: %v", c.failed)
	}
	for at, p := range c.places {
		m := p.store.Metrics()
		if m.BadFrames != 0 || (m.UnspokenMessages > 0) != (at != lead) {
			t.Errorf("store %d: %d bad frames, %d messages were not sent", at+1, m.BadFrames, m.UnspokenMessages)
		}
	}
	delete(old, wire.StoreID(lead+1))
	reopen(lead)
	c.tick(100)
	c.write(1, 2*warpEvery)
	c.expectDiverged(bad)
}

// With NoDigests nothing is compared, and a replica that was stopped starts again.
func TestNoDigests(t *testing.T) {
	off := false
	c := newWarpCluster(t, 3, false, false, func(cfg *engine.Config) { cfg.NoDigests = off })
	c.write(1, 20)
	bad := c.follower()
	c.warp(bad)
	c.write(1, 2*warpEvery)
	c.expectDiverged(bad)
	off = true
	for at := range c.places {
		c.close(at)
		c.mustOpen(at)
	}
	clear(c.failed)
	c.write(1, 4*warpEvery)
	for at := range c.places {
		if st := c.group(at, 1).Status(); st.Err != nil || st.Agreed != 0 || st.Role == group.Candidate {
			t.Errorf("store %d: %+v", at+1, st)
		}
	}
	off = false
	c.close(bad)
	c.mustOpen(bad) // the mark is gone
}

// twisted is a ledger whose results can be made to differ.
type twisted struct {
	ledger
	other atomic.Bool
}

func (t *twisted) Apply(entries []engine.Entry) error {
	if err := t.ledger.Apply(entries); err != nil {
		return err
	}
	for i := range entries {
		if t.other.Load() {
			entries[i].Result.Value ^= 1
		}
	}
	return nil
}

// On stores that run, the diverged replica is removed and its store given another one,
// which gets the entries from the leader.
func TestDivergedReplicaIsReplaced(t *testing.T) {
	t.Parallel()
	machines := map[wire.StoreID]*twisted{}
	joined := &twisted{}
	c := newCluster(t, func(cfg *engine.Config) {
		cfg.DigestEntries = 4
		cfg.Join = func(engine.JoinRequest) (engine.GroupConfig, error) {
			return engine.GroupConfig{StateMachine: joined}, nil
		}
	})
	for id, store := range c.stores {
		machines[id] = &twisted{}
		if _, err := store.StartGroup(c.ctx(), engine.GroupConfig{ID: 1, Members: threeMembers, StateMachine: machines[id]}); err != nil {
			t.Fatal(err)
		}
	}
	propose := func(n int) {
		for i := range n {
			c.propose(1, fmt.Sprint(i))
		}
	}
	propose(10)
	bad := c.leader(1).Store().ID()%3 + 1
	machines[bad].other.Store(true)
	propose(10)
	var diverged *engine.DivergedError
	c.until("the diverged replica stops", func() bool { return errors.As(c.group(bad, 1).Err(), &diverged) })

	leader := c.leader(1)
	if err := leader.RemoveReplica(c.ctx(), diverged.Replica); err != nil {
		t.Fatal(err)
	}
	if _, err := leader.AddReplica(c.ctx(), engine.Member{Store: bad}); err != nil {
		t.Fatal(err)
	}
	propose(20)
	c.until("the new replica takes part", func() bool {
		st := c.group(bad, 1).Status()
		return st.Err == nil && st.Agreed >= 36 && len(joined.snapshot()) == 40
	})
}

// A leader that knows that it has diverged sends its state to nobody, not even for as
// long as it looks for a successor.
func TestDivergedLeaderSendsNoSnapshot(t *testing.T) {
	c := newWarpCluster(t, 5, false, false, nil)
	c.write(1, 20)
	behind := c.follower()
	c.crash(behind, vfs.ProcessDies)
	c.write(1, 150)
	bad := c.leader(1)
	known := func() bool { return c.places[bad].store.Metrics().DivergedReplicas > 0 }
	offers := 0
	c.pass = func(from, _ wire.StoreID, m *wire.Message) bool {
		switch {
		case int(from) != bad+1 || m.Kind != wire.Snapshot && m.Kind != wire.SnapshotChunk:
			return m.Kind != wire.TimeoutNow // nobody takes over soon
		case known() && !m.Reject:
			t.Errorf("%s of a diverged replica", m.Kind)
		}
		offers++
		return false
	}
	c.mustOpen(behind)
	c.until("an offer", func() bool { return offers > 0 })
	c.warp(bad)
	for i := 0; !known() && i < 3*warpEvery; i++ {
		if err := c.group(bad, 1).ProposeAsync([]byte{byte(i)}, engine.NewPending(&c.count)); err != nil {
			t.Fatal(err)
		}
		c.settle()
	}
	if !known() || c.leader(1) != bad {
		t.Fatal("the diverged replica does not lead")
	}
	c.expectDiverged(bad)
	c.pass = nil
	c.until("the state comes from another leader", func() bool {
		return c.group(behind, 1).Applied() >= c.group((bad+2)%5, 1).Status().Committed && c.places[behind].books[1].restores > 0
	})
}

// A store whose log has failed is silent about digests too: it answers none, though
// no turn and no disk is needed for that.
func TestFailedStoreAnswersNoDigest(t *testing.T) {
	for _, failed := range []bool{false, true} {
		c := newWarpCluster(t, 3, false, false, nil)
		c.write(1, 2*warpEvery)
		c.expectSound(0, 1, 2)
		at := c.leader(1)
		p := c.places[at]
		if failed {
			p.fs.SetHook(func(op vfs.Op) vfs.Fault { return vfs.Fault{Err: errors.New("broken")} })
			if err := c.group(at, 1).ProposeAsync([]byte("x"), engine.NewPending(&c.count)); err != nil {
				t.Fatal(err)
			}
			c.settle()
			if p.store.Err() == nil {
				t.Fatal("the store has not failed")
			}
		}
		answers := 0
		c.pass = func(from, _ wire.StoreID, m *wire.Message) bool {
			if from == p.id && m.Kind == wire.DigestResponse {
				answers++
			}
			return true
		}
		other := wire.ReplicaID((at+1)%3 + 1)
		b := batch.NewBuilder(func() []byte { return nil }, 0)
		b.Add(&wire.Message{Kind: wire.Digest, Group: 1, From: other, To: wire.ReplicaID(at + 1), Index: warpEvery, Context: 1})
		if err := b.Flush(func(_ wire.Lane, payload []byte) error {
			p.handler.HandleFrame(wire.StoreID(other), payload)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if want := map[bool]int{false: 1, true: 0}[failed]; answers != want {
			t.Errorf("failed=%v: %d answers, want %d", failed, answers, want)
		}
	}
}
