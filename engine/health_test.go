package engine_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/wire"
)

const electionTicks = 20 // the default

// diskCluster is a stepped cluster whose disks can hang and be slow.
type diskCluster struct {
	*steppedCluster
	hung   [3]bool
	takes  [3]int // ticks that a step of the log takes; zero: none
	rests  [3]int // ticks until the one under way ends
	events [3][]group.Fitness
}

func newDiskCluster(t *testing.T, groups int, change func(*engine.Config)) *diskCluster {
	if raceEnabled {
		t.Skip("all of it is on one goroutine, and a hundred times as long under the race detector")
	}
	c := &diskCluster{}
	c.steppedCluster = newSteppedClusterWith(t, groups, func(cfg *engine.Config) {
		at := int(cfg.ID) - 1
		cfg.Events.FitnessChanged = func(f group.Fitness) { c.events[at] = append(c.events[at], f) }
		if change != nil {
			change(cfg)
		}
	})
	c.beforeTick = append(c.beforeTick, func() {
		for at := range c.rests {
			c.rests[at] = max(0, c.rests[at]-1)
		}
		for _, d := range c.steps {
			d.Events()
		}
	})
	c.mayLog = func(at int) bool {
		if c.hung[at] || c.rests[at] > 0 {
			return false
		}
		c.rests[at] = c.takes[at]
		return true
	}
	t.Cleanup(func() { c.hung, c.takes, c.rests = [3]bool{}, [3]int{}, [3]int{} })
	return c
}

// led returns how many groups a store takes itself to lead.
func (c *diskCluster) led(at int) (n int) {
	for _, g := range c.stores[at].Groups() {
		if g.IsLeader() {
			n++
		}
	}
	return n
}

// leader returns the replica that leads a group in the highest term, nil when none
// does.
func (c *diskCluster) leader(id wire.GroupID) (leader *engine.Group) {
	term := wire.Term(0)
	for _, s := range c.stores {
		if g, ok := s.Group(id); ok && g.IsLeader() && g.Status().Term > term {
			leader, term = g, g.Status().Term
		}
	}
	return leader
}

// write proposes to all groups, and returns how many took it.
func (c *diskCluster) write(groups int, n *tally) (taken int) {
	c.t.Helper()
	for id := wire.GroupID(1); id <= wire.GroupID(groups); id++ {
		if g := c.leader(id); g != nil {
			if err := g.ProposeAsync([]byte("x"), engine.NewPending(n)); err == nil {
				taken++
			}
		}
	}
	c.settle()
	return taken
}

// The disk of a store hangs: its leaderships are lost within two election time-outs,
// the groups take writes again, what waited is answered, and nobody here campaigns.
// When the disk answers, the store takes part as before, at last as a leader too.
func TestHungDiskLosesLeaderships(t *testing.T) {
	const groups = 30
	for name, change := range map[string]func(*engine.Config){
		"by handing over":    nil,
		"by stepping down":   func(cfg *engine.Config) { cfg.HungDisk = 50 * time.Millisecond },
		"with leases":        func(cfg *engine.Config) { cfg.Tuning.LeaseReads = true },
		"leases, no warning": func(cfg *engine.Config) { cfg.Tuning.LeaseReads = true; cfg.HungDisk = 50 * time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			c := newDiskCluster(t, groups, change)
			const at = 1
			if c.led(at) != groups/3 {
				t.Fatalf("the store leads %d groups", c.led(at))
			}
			elections := c.stores[at].Metrics().Elections
			c.hung[at] = true
			var n tally
			if taken := c.write(groups, &n); taken != groups || n.done != groups*2/3 {
				t.Fatalf("%d writes were taken, %d done", taken, n.done)
			}
			// These wait in front of the gate.
			c.write(groups, &n)
			ticks := 0
			for ; c.led(at) > 0; ticks++ {
				if ticks > electionTicks {
					t.Fatalf("the store leads %d groups after %d ticks", c.led(at), ticks)
				}
				c.tick()
			}
			for ; c.led(0)+c.led(2) < groups; ticks++ {
				if ticks > 3*electionTicks {
					t.Fatalf("%d groups have leaders after %d ticks", c.led(0)+c.led(2), ticks)
				}
				c.tick()
			}
			if name == "by handing over" && ticks >= electionTicks {
				t.Errorf("%d ticks without a leader", ticks)
			}
			if n.done != 2*groups {
				t.Errorf("%d of %d writes were answered", n.done, 2*groups)
			}
			var after tally
			if taken := c.write(groups, &after); taken != groups || after.done != groups || after.failed > 0 {
				t.Fatalf("%d writes were taken, %d done, %d failed", taken, after.done, after.failed)
			}
			for range 10 * electionTicks {
				c.tick()
			}
			m := c.stores[at].Metrics()
			if m.Fitness != group.Hung || m.HungDisk != 1 || m.Elections != elections || m.Leading != 0 {
				t.Errorf("%+v", m)
			}
			c.hung[at] = false
			for range 20 * electionTicks {
				c.tick()
			}
			if c.stores[at].Fitness() != group.Fit {
				t.Errorf("the disk is %v", c.stores[at].Fitness())
			}
			if got := c.events[at]; !slices.Equal(got[len(got)-3:], []group.Fitness{group.Hung, group.Slow, group.Fit}) {
				t.Errorf("events: %v", got)
			}
			for id := wire.GroupID(1); id <= groups; id++ {
				want := c.leader(id).Applied()
				for _, s := range c.stores {
					if g, _ := s.Group(id); g.Applied() != want || g.Err() != nil {
						t.Fatalf("group %d on store %d: %+v, want %d applied", id, s.ID(), g.Status(), want)
					}
				}
			}
			for _, g := range c.stores[at].Groups() {
				if err := c.steps[at].Campaign(g); err != nil {
					t.Fatal(err)
				}
			}
			// A forgotten leader is what an operator does; pre-vote keeps it otherwise.
			for id := wire.GroupID(1); id <= groups; id++ {
				if l := c.leader(id); l.Store() != c.stores[at] {
					if err := c.steps[int(l.Store().ID())-1].TransferLeader(l, 2); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range electionTicks {
				c.tick()
			}
			if c.led(at) != groups {
				t.Errorf("recovered, the store leads %d of %d groups that were handed to it", c.led(at), groups)
			}
		})
	}
}

// A majority of the disks hangs: nothing is acknowledged, terms do not rise without
// end, and the group goes on when they answer.
func TestMajorityOfHungDisks(t *testing.T) {
	c := newDiskCluster(t, 3, nil)
	c.hung[0], c.hung[1] = true, true
	var n tally
	c.write(3, &n)
	for range 50 * electionTicks {
		c.tick()
	}
	for _, s := range c.stores {
		for _, g := range s.Groups() {
			if st := g.Status(); st.Term > 8 {
				t.Errorf("store %d: group %d is in term %d", s.ID(), st.ID, st.Term)
			}
		}
	}
	if ok := n.done - n.failed; ok > 0 {
		t.Errorf("%d writes were acknowledged", ok)
	}
	c.hung = [3]bool{}
	for range 5 * electionTicks {
		c.tick()
	}
	var after tally
	if taken := c.write(3, &after); taken != 3 || after.done != 3 || after.failed > 0 {
		t.Errorf("%d writes were taken, %d done, %d failed", taken, after.done, after.failed)
	}
}

// A disk that is slow for long loses its leaderships, without an election that
// anybody had to time out for, and takes them back by priority when it is fit.
func TestSlowDiskHandsOver(t *testing.T) {
	const groups = 9
	c := newDiskCluster(t, groups, nil)
	const at = 1
	led := c.led(at)
	c.takes[at] = 6 // 300 ms, three times what is slow, and less than a stall
	var n tally
	for range 2*4*electionTicks + 2*4 {
		c.write(groups, &n)
		c.tick()
	}
	if c.stores[at].Fitness() != group.Slow || c.led(at) != 0 || led == 0 {
		t.Fatalf("the disk is %v, and the store leads %d groups", c.stores[at].Fitness(), c.led(at))
	}
	if c.led(0)+c.led(2) != groups {
		t.Errorf("%d groups have leaders", c.led(0)+c.led(2))
	}
	// All are slow: leaderships stay where they are.
	elections := func() (n int64) {
		for _, s := range c.stores {
			n += s.Metrics().Elections
		}
		return n
	}
	c.takes = [3]int{6, 6, 6}
	for range 3 * 4 * electionTicks {
		c.write(groups, &n)
		c.tick()
	}
	before := elections()
	for range 10 * 4 * electionTicks {
		c.write(groups, &n)
		c.tick()
	}
	if got := elections(); got != before {
		t.Errorf("%d elections while all disks are slow", got-before)
	}
	c.takes = [3]int{}
	for range 8 * 4 * electionTicks {
		c.write(groups, &n)
		c.tick()
	}
	for i, s := range c.stores {
		if s.Fitness() != group.Fit {
			t.Errorf("store %d: %v", i+1, s.Fitness())
		}
	}
}

// Leaderships leave a slow disk at a limited rate.
func TestSlowDiskIsPaced(t *testing.T) {
	const groups = 900 // 300 are led here
	c := newDiskCluster(t, groups, nil)
	const at = 1
	c.hung[at] = true
	var n tally
	c.write(groups, &n)
	most, was := 0, c.led(at)
	for range electionTicks {
		c.tick()
		most, was = max(most, was-c.led(at)), c.led(at)
	}
	if was != 0 || most == 0 || most > 256 {
		t.Errorf("up to %d leaderships left in a tick, %d stayed", most, was)
	}
}

// A disk that serves bursts fast is not slow, however much it has to do, nor is one
// that is idle, nor one with a single slow answer.
func TestBusyDiskIsFit(t *testing.T) {
	c := newDiskCluster(t, 9, nil)
	var n tally
	for i := range 20 * electionTicks {
		c.write(9, &n)
		c.hung[1] = i%100 < 3
		c.tick()
	}
	for i := range c.stores {
		if len(c.events[i]) > 0 {
			t.Errorf("store %d: %v", i+1, c.events[i])
		}
	}
}

// What others send to a store with a hung disk does not fill its memory, and it
// catches up when the disk answers.
func TestHungDiskBoundsMemory(t *testing.T) {
	const groups, size = 30, 64 << 10
	c := newDiskCluster(t, groups, func(cfg *engine.Config) {
		cfg.MaxReceiveBytes, cfg.MaxInflightBytes, cfg.MaxGroupInflightBytes = 1<<20, 4<<20, 1<<20
		cfg.MaxCommandBytes = 256 << 10
	})
	const at = 1
	c.hung[at] = true
	command := []byte(strings.Repeat("x", size))
	var n tally
	wrote := 0
	for range 40 {
		for id := wire.GroupID(1); id <= groups; id++ {
			if g := c.leader(id); g != nil && g.ProposeAsync(command, engine.NewPending(&n)) == nil {
				wrote++
			}
		}
		c.tick()
		c.tick()
	}
	m := c.stores[at].Metrics()
	if m.DroppedAppends == 0 || m.LogQueueBytes > 10<<20 || wrote < 400 {
		t.Errorf("%d appends dropped, %d bytes wait for the log; %d writes of %d bytes", m.DroppedAppends, m.LogQueueBytes, wrote, size)
	}
	c.hung[at] = false
	for range 20 * electionTicks {
		c.tick()
	}
	for id := wire.GroupID(1); id <= groups; id++ {
		g, _ := c.stores[at].Group(id)
		if want := c.leader(id).Applied(); g.Applied() != want {
			t.Fatalf("group %d has applied %d, its leader %d", id, g.Applied(), want)
		}
	}
}

// On the real threads: a sync that does not return takes the leaderships away, the
// others go on, and the store can be closed nevertheless.
func TestHungSyncAndClose(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var stuck chan struct{} // nil: syncs return
	wait := func() chan struct{} {
		mu.Lock()
		defer mu.Unlock()
		return stuck
	}
	const at = wire.StoreID(2)
	c := newCluster(t, func(cfg *engine.Config) {
		disk := vfs.New(vfs.Options{})
		cfg.FS, cfg.Dir, cfg.CloseTimeout = disk, filepath.Join("/", "store"), 200*time.Millisecond
		if cfg.ID == at {
			disk.SetHook(func(op vfs.Op) vfs.Fault {
				if op.Kind == vfs.OpSync && strings.HasPrefix(op.Name, cfg.Dir) {
					if w := wait(); w != nil {
						<-w
					}
				}
				return vfs.Fault{}
			})
		}
	})
	ids := []wire.GroupID{1, 2, 3, 4, 5, 6}
	c.startAll(ids...)
	for _, id := range ids {
		c.propose(id, "before")
	}
	c.until("the store leads a group", func() bool {
		for _, id := range ids {
			if err := c.leader(id).TransferLeader(c.ctx(), wire.ReplicaID(at)); err == nil {
				return true
			}
		}
		return false
	})
	mu.Lock()
	stuck = make(chan struct{})
	mu.Unlock()
	release := sync.OnceFunc(func() { close(stuck) })
	t.Cleanup(release)
	broken := c.stores[at]
	var n sync.WaitGroup
	for _, id := range ids {
		n.Go(func() {
			_, _ = c.group(at, id).Propose(c.ctx(), []byte("x")) // whatever becomes of it
		})
	}
	c.until("the store leads nothing", func() bool { return broken.Metrics().Leading == 0 && broken.Fitness() == group.Hung })
	n.Wait()
	for _, id := range ids {
		c.until("another leads", func() bool {
			_, err := c.group(1, id).Read(c.ctx(), nil)
			return err == nil
		})
	}
	var hung *engine.DiskHungError
	if err := broken.Close(); !errors.As(err, &hung) || hung.Store != at {
		t.Errorf("close: %v", err)
	}
	delete(c.stores, at)
	for _, id := range ids {
		c.propose(id, "after")
	}
	release()
}
