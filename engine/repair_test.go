package engine_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"multiraft/engine"
	"multiraft/internal/vfs"
	"multiraft/raftlog"
	"multiraft/wire"
)

// repairCluster is a snapCluster whose stores repair each other, and that watches
// what damaged replicas say.
type repairCluster struct {
	*snapCluster
	joins    bool // stores have Config.Join
	lost     map[wire.GroupID]wire.ReplicaID
	damaged  []engine.Damage
	repaired map[wire.GroupID]wire.ReplicaID
}

func newRepairCluster(t testing.TB, stores int, groups []wire.GroupID, change func(*engine.Config)) *repairCluster {
	c := &repairCluster{lost: map[wire.GroupID]wire.ReplicaID{}, repaired: map[wire.GroupID]wire.ReplicaID{}}
	c.snapCluster = newSnapCluster(t, stores, groups, nil)
	c.change = func(cfg *engine.Config) {
		cfg.Events.GroupDamaged = func(d engine.Damage) { c.damaged = append(c.damaged, d) }
		cfg.Events.GroupRepaired = func(id wire.GroupID, replica wire.ReplicaID) { c.repaired[id] = replica }
		if c.joins {
			p := c.places[cfg.ID-1]
			cfg.Join = func(req engine.JoinRequest) (engine.GroupConfig, error) {
				return engine.GroupConfig{StateMachine: c.machine(p, req.Group)}, nil
			}
		}
		if change != nil {
			change(cfg)
		}
	}
	return c
}

// start opens a store and starts its groups; those that are lost come back later.
func (c *repairCluster) start(at int) {
	c.t.Helper()
	p := c.places[at]
	p.books, p.inbox = map[wire.GroupID]*book{}, nil
	store, steps, err := engine.OpenStepped(c.config(at))
	if err != nil {
		c.t.Fatalf("store %d: %v", at+1, err)
	}
	p.store, p.steps = store, steps
	c.introduce()
	for _, id := range c.groups {
		_, err := store.StartGroup(c.t.Context(), engine.GroupConfig{ID: id, Members: c.members, StateMachine: c.machine(p, id)})
		var lost *engine.ReplicaLostError
		if errors.As(err, &lost) {
			if lost.Replica != 0 {
				c.lost[id] = lost.Replica
			}
		} else if err != nil {
			c.t.Fatalf("store %d: %v", at+1, err)
		}
	}
}

// introduce tells all stores that run that they can speak to each other.
func (c *repairCluster) introduce() {
	for _, p := range c.places {
		for _, q := range c.places {
			if p != q && p.handler != nil && q.handler != nil {
				p.handler.PeerUp(q.id, 1, wire.ProtocolVersion)
			}
		}
	}
}

// watch fails the test when a replica says what it must not: one that is lost
// nothing but that it is, one that is wounded nothing of a leader or candidate.
func (c *repairCluster) watch(at int) {
	c.pass = func(from, to wire.StoreID, m *wire.Message) bool {
		p := c.places[at]
		if from != p.id {
			return true
		}
		if id := c.lost[m.Group]; id != 0 && m.From == id && m.Kind != wire.Rejoin {
			c.t.Errorf("lost replica %d of group %d says %v", id, m.Group, m.Kind)
		}
		if p.store == nil {
			return true
		}
		if g, ok := p.store.Group(m.Group); ok && g.Status().Repairing != nil {
			switch m.Kind {
			case wire.Vote, wire.PreVote, wire.Append, wire.Heartbeat, wire.ReadIndexResponse:
				c.t.Errorf("wounded replica %d of group %d says %v", m.From, m.Group, m.Kind)
			case wire.AppendResponse:
				if !m.Reject {
					c.t.Errorf("wounded replica %d of group %d acknowledges entry %d", m.From, m.Group, m.Index)
				}
			}
		}
		return true
	}
}

// voters returns how many voters a group has, as its leader knows.
func (c *repairCluster) voters(id wire.GroupID) (n int) {
	for _, m := range c.group(c.leader(id), id).Status().Members {
		if m.Role == wire.Voter {
			n++
		}
	}
	return n
}

// whole tells whether all stores have the same n commands of all groups, and all
// replicas vote.
func (c *repairCluster) whole(n int) bool {
	if !c.converged(n) {
		return false
	}
	for _, id := range c.groups {
		if c.voters(id) != len(c.places) {
			return false
		}
	}
	return !slices.ContainsFunc(c.places, func(p *place) bool { return p.store.Metrics().Repairing != 0 })
}

// filesOf lists all files of a store.
func filesOf(t testing.TB, fs *vfs.MemFS) (names []string) {
	t.Helper()
	for _, dir := range []string{"/store", "/store/snapshots"} {
		list, err := fs.List(dir)
		if err != nil {
			continue
		}
		for _, base := range list {
			if !strings.HasSuffix(base, "snapshots") {
				names = append(names, dir+"/"+base)
			}
		}
	}
	return names
}

func contentOf(t testing.TB, fs *vfs.MemFS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if size > 0 {
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFlippedBytesAreRepaired damages a sample of all bytes that a store has, one at
// a time. Whatever it was, the store opens, its other groups go on at once, nothing
// that was acknowledged is missing, and in the end all replicas are there, agree,
// and vote: healed in place, or as new ones where votes may be lost.
func TestFlippedBytesAreRepaired(t *testing.T) {
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprint("durable=", durable), func(t *testing.T) {
			groups := []wire.GroupID{1, 2, 3}
			c := newRepairCluster(t, 3, groups, nil)
			c.durable = durable
			for at := range c.places {
				c.start(at)
			}
			for round := range 4 {
				for _, id := range groups {
					c.write(id, 3+int(id)*4) // group 3 has snapshots
				}
				if round == 1 {
					c.close(1)
					c.tick(60)
					c.start(1)
				}
			}
			c.until("beginning", func() bool { return c.converged(28) })
			disks := map[int]map[wire.GroupID]*pages{}
			for at, p := range c.places {
				c.close(at)
				disks[at] = p.disks
			}
			victim := 1
			inPlace, replaced, flips := 0, 0, 0
			for _, name := range filesOf(t, c.places[victim].fs) {
				content := contentOf(t, c.places[victim].fs, name)
				stride := 1
				if used := len(strings.TrimRight(string(content), "\x00")); used > 0 {
					stride = max(1, used/120)
				}
				for offset := 0; offset < len(content); offset += stride {
					if offset > 0 && content[offset] == 0 && offset%7 != 0 {
						continue
					}
					if strings.TrimRight(string(content[offset:]), "\x00") == "" {
						break
					}
					flips++
					after := newRepairCluster(t, 3, groups, nil)
					after.durable, after.sent = durable, c.sent
					for at, p := range c.places {
						after.places[at].fs = p.fs.CrashClone(nil, vfs.ProcessDies)
						for id, pg := range disks[at] {
							copied := *pg
							after.places[at].disks[id] = &copied
						}
					}
					if err := after.places[victim].fs.FlipBit(name, int64(offset), uint(flips%8)); err != nil {
						t.Fatal(err)
					}
					after.watch(victim)
					after.start(0)
					after.start(2)
					after.start(victim)
					for _, id := range groups {
						after.write(id, 1)
					}
					after.until(fmt.Sprintf("%s at %d: whole", name, offset), func() bool { return after.whole(29) })
					after.ordered()
					for _, d := range after.damaged {
						if d.InPlace {
							inPlace++
						} else {
							replaced++
						}
						if after.repaired[d.Group] == 0 {
							t.Fatalf("%s at %d: no word of the repair of %+v", name, offset, d)
						}
					}
					for id, lost := range after.lost {
						if now := after.group(victim, id).Status().Self.Replica; now <= lost {
							t.Fatalf("%s at %d: group %d goes on as replica %d, which is lost", name, offset, id, now)
						}
					}
				}
			}
			t.Logf("%d flips: %d healed in place, %d replaced", flips, inPlace, replaced)
			if inPlace == 0 || replaced == 0 {
				t.Error("one of the ways to come back was not taken")
			}
		})
	}
}

// flipIn damages the first place on a disk that holds the text.
func flipIn(t testing.TB, fs *vfs.MemFS, text string) {
	t.Helper()
	for _, name := range filesOf(t, fs) {
		if !strings.Contains(name, "segment-") {
			continue
		}
		if at := strings.Index(string(contentOf(t, fs, name)), text); at >= 0 {
			if err := fs.FlipBit(name, int64(at), 1); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%q is nowhere", text)
}

// startAll starts all stores and writes a little.
func (c *repairCluster) startAll(n int) {
	c.t.Helper()
	for at := range c.places {
		c.start(at)
	}
	for _, id := range c.groups {
		c.write(id, n)
	}
	c.until("beginning", func() bool { return c.converged(n) })
}

// TestLeaderHandsOverBeforeItsRepair: a leader finds that it cannot read an entry
// for a follower that was away. The follower gets the state, another replica leads
// without an election time-out, and the one with the damage gets the state in turn.
func TestLeaderHandsOverBeforeItsRepair(t *testing.T) {
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotEntries = 10_000 })
	c.startAll(5)
	lead := c.leader(1)
	away := (lead + 1) % 3
	c.close(away)
	c.write(1, 20)
	c.tick(60)
	text := fmt.Sprintf("1:%06d", c.sent-10)
	flipIn(t, c.places[lead].fs, text)
	c.watch(lead)
	elections := func() (n int64) {
		for _, p := range c.places {
			if p.store != nil {
				n += p.store.Metrics().Elections
			}
		}
		return n
	}
	before, term := elections(), c.group(lead, 1).Status().Term
	c.start(away)
	c.until("healed", func() bool { return c.whole(25) && c.places[lead].store.Metrics().HealedReplicas == 1 })
	if now := c.leader(1); now == lead {
		t.Error("the leader with the damage leads on")
	}
	if n, st := elections()-before, c.group(lead, 1).Status(); n != 1 || st.Term != term+1 {
		t.Errorf("%d elections, from term %d to %d", n, term, st.Term)
	}
	if len(c.damaged) != 1 || !c.damaged[0].InPlace || !errors.Is(c.damaged[0].Err, wire.ErrDamaged) || c.repaired[1] != wire.ReplicaID(lead+1) {
		t.Errorf("told of %+v, repaired %v", c.damaged, c.repaired)
	}
	c.write(1, 3)
	c.until("go on", func() bool { return c.whole(28) })
	c.ordered()
}

// TestLoneReplicaLivesWithDamage: nobody could repair it, and while it runs its
// machine has what the entry did: it serves on. A start that needs the entry is
// refused.
func TestLoneReplicaLivesWithDamage(t *testing.T) {
	c := newRepairCluster(t, 1, []wire.GroupID{1, 2}, func(cfg *engine.Config) { cfg.MaxCommandBytes = 8 << 10 })
	c.startAll(6)
	flipIn(t, c.places[0].fs, "1:000003")
	for range 60 {
		if err := c.group(0, 2).ProposeAsync([]byte(strings.Repeat("f", 6<<10)), engine.NewPending(&c.count)); err != nil {
			t.Fatal(err)
		}
		c.tick(1)
	}
	c.write(1, 1)
	if err := c.group(0, 1).Err(); err != nil || len(c.damaged) != 0 {
		t.Fatalf("%v, told of %+v", err, c.damaged)
	}

	c = newRepairCluster(t, 1, []wire.GroupID{1}, nil)
	c.startAll(6)
	c.close(0)
	flipIn(t, c.places[0].fs, "1:000003")
	var damage *raftlog.CorruptionError
	if err := c.open(0); !errors.As(err, &damage) {
		t.Fatalf("start: %v, want a CorruptionError", err)
	}
}

// TestDamageOnTwoReplicas: two of three replicas have lost entries, at different
// places. Both keep their votes, the third is elected by them, and gives them its
// state.
func TestDamageOnTwoReplicas(t *testing.T) {
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.SnapshotEntries = 10_000 })
	c.startAll(30)
	for at := range c.places {
		c.close(at)
	}
	flipIn(t, c.places[0].fs, "1:000007")
	flipIn(t, c.places[1].fs, "1:000019")
	for at := range c.places {
		c.start(at)
	}
	for at := range 2 {
		if st := c.group(at, 1).Status(); st.Repairing == nil || st.Self.Role != wire.Voter {
			t.Fatalf("store %d: %+v", at+1, st)
		}
		var repairing *engine.RepairingError
		if err := c.group(at, 1).ReadAsync(nil, func(any, error) {}); !errors.As(err, &repairing) {
			t.Errorf("a read on store %d: %v", at+1, err)
		}
	}
	c.write(1, 1)
	c.until("whole", func() bool { return c.whole(31) })
	if len(c.lost) != 0 {
		t.Errorf("lost: %v", c.lost)
	}
	for at := range 2 {
		if st := c.group(at, 1).Status(); st.Self.Replica != wire.ReplicaID(at+1) || st.Repairing != nil {
			t.Errorf("store %d: %+v", at+1, st)
		}
	}
}

// TestDamageMetByMaintain: a rewrite of old segments finds it, on a follower and on
// the leader.
func TestDamageMetByMaintain(t *testing.T) {
	for _, onLeader := range []bool{false, true} {
		c := newRepairCluster(t, 3, []wire.GroupID{1, 2}, func(cfg *engine.Config) { cfg.MaxCommandBytes = 8 << 10 })
		c.startAll(4)
		at := c.leader(1)
		if !onLeader {
			at = (at + 1) % 3
		}
		flipIn(t, c.places[at].fs, "1:000002")
		filler := strings.Repeat("f", 6<<10)
		for i := 0; i < 200 && len(c.damaged) == 0; i++ {
			p := engine.NewPending(&c.count)
			if err := c.group(c.leader(2), 2).ProposeAsync([]byte(filler), p); err != nil {
				t.Fatal(err)
			}
			c.tick(1)
		}
		if len(c.damaged) != 1 || c.damaged[0].Group != 1 {
			t.Fatalf("on the leader %v: told of %+v", onLeader, c.damaged)
		}
		c.until("healed", func() bool {
			m := c.places[at].store.Metrics()
			return m.HealedReplicas == 1 && c.converged(4)
		})
		c.write(1, 3)
		c.until("go on", func() bool { return c.converged(7) })
	}
}

// TestMachineWithoutSnapshots: entries are all there is, so a replica that has lost
// some of them gives itself up, and begins anew with a machine from Config.Join.
func TestMachineWithoutSnapshots(t *testing.T) {
	for _, joins := range []bool{true, false} {
		c := newRepairCluster(t, 3, []wire.GroupID{1}, nil)
		c.joins, c.plain = joins, true
		c.startAll(20)
		for at := range c.places {
			c.close(at)
		}
		flipIn(t, c.places[1].fs, "1:000007")
		c.watch(1)
		for at := range c.places {
			c.start(at)
		}
		if c.lost[1] != 2 {
			t.Fatalf("lost: %v", c.lost)
		}
		c.write(1, 1)
		c.until("whole", func() bool { return c.whole(21) })
		if st := c.group(1, 1).Status(); st.Self.Replica != 4 || c.repaired[1] != 4 {
			t.Errorf("it goes on as %+v, repaired %v", st.Self, c.repaired)
		}
	}
}

// TestStoreComesBackWithoutItsDisk: with DiskLost, all that was lost with the disk is
// replaced, a few groups at a time, also when the store ends in the middle and comes
// back without DiskLost.
func TestStoreComesBackWithoutItsDisk(t *testing.T) {
	groups := []wire.GroupID{1, 2, 3, 4, 5, 6, 7}
	lost := false
	c := newRepairCluster(t, 3, groups, func(cfg *engine.Config) {
		cfg.MaxSnapshots = 2
		cfg.DiskLost = lost && cfg.ID == 2
	})
	c.startAll(12)
	for at := range c.places {
		c.close(at)
	}
	c.places[1].fs = vfs.New(vfs.Options{})
	c.watch(1)
	c.start(0)
	c.start(2)
	lost = true
	c.start(1)
	if len(c.lost) != len(groups) {
		t.Fatalf("lost: %v", c.lost)
	}
	c.until("some are back", func() bool { return len(c.repaired) >= 2 })
	if len(c.repaired) == len(groups) {
		t.Error("all came back at once")
	}
	c.close(1)
	lost = false
	clear(c.lost)
	c.start(1)
	c.until("whole", func() bool { return c.whole(12) })
	for _, id := range groups {
		c.write(id, 1)
	}
	c.until("go on", func() bool { return c.whole(13) })
	c.ordered()
}

// TestCrashAtEveryCallOfARepair: whenever the store loses power while one replica is
// healed in place and another one replaced, both come back in the end.
func TestCrashAtEveryCallOfARepair(t *testing.T) {
	groups := []wire.GroupID{1, 2}
	base := newRepairCluster(t, 3, groups, nil)
	base.startAll(12)
	for at := range base.places {
		base.close(at)
	}
	flipIn(t, base.places[1].fs, "1:000004")
	flipIn(t, base.places[1].fs, fmt.Sprintf("2:%06d", base.sent)) // the last entry of the log: who knows what was promised
	pictures := 0
	for call := uint64(1); ; call++ {
		c := newRepairCluster(t, 3, groups, nil)
		c.sent = base.sent
		for at, p := range base.places {
			c.places[at].fs = p.fs.CrashClone(nil, vfs.ProcessDies)
		}
		c.watch(1)
		watched := c.pass
		c.start(0)
		c.start(2)
		fs := c.places[1].fs
		var picture *vfs.MemFS
		c.pass = func(from, to wire.StoreID, m *wire.Message) bool {
			return watched(from, to, m) && (picture == nil || from != 2) // dead stores say nothing
		}
		kind := []vfs.CrashOptions{vfs.ProcessDies, vfs.AllLost, vfs.PowerFails}[call%3]
		fs.SetHook(func(op vfs.Op) vfs.Fault {
			if op.Call >= call && op.Kind.Mutates() && picture == nil && op.Call > 0 {
				picture = fs.CrashClone(c.r, kind)
			}
			return vfs.Fault{}
		})
		c.start(1)
		whole := func() bool { return picture != nil || c.whole(12) }
		for range 4000 {
			if whole() {
				break
			}
			c.tick(1)
		}
		fs.SetHook(nil)
		if picture == nil {
			break
		}
		pictures++
		p := c.places[1]
		p.store, p.steps, p.handler, p.inbox, p.fs = nil, nil, nil, nil, picture
		c.settle() // what it said is gone
		c.pass = watched
		c.start(1)
		for _, id := range groups {
			c.write(id, 1)
		}
		c.until(fmt.Sprintf("call %d: whole", call), func() bool { return c.whole(13) })
		c.ordered()
	}
	t.Logf("%d pictures", pictures)
	if pictures < 20 {
		t.Error("too few")
	}
}

// TestStartOfLostGroupIsTriedAgain: a host that starts a lost group again and again has
// one replica on the list of those that are to come back, and not one for each try.
func TestStartOfLostGroupIsTriedAgain(t *testing.T) {
	c := newRepairCluster(t, 3, []wire.GroupID{1}, func(cfg *engine.Config) { cfg.DiskLost = cfg.ID == 3 })
	c.start(2)
	p := c.places[2]
	for range 100 {
		var lost *engine.ReplicaLostError
		if _, err := p.store.StartGroup(t.Context(), engine.GroupConfig{ID: 1, Members: c.members, StateMachine: c.machine(p, 1)}); !errors.As(err, &lost) {
			t.Fatalf("start: %v", err)
		}
	}
	if got := p.store.Metrics().Repairing; got != 1 {
		t.Errorf("%d wait for another replica", got)
	}
	c.close(2)
}
