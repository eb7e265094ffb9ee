package recovery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"multiraft/engine"
	"multiraft/group"
	"multiraft/internal/vfs"
	"multiraft/recovery"
	"multiraft/transport"
	"multiraft/wire"
)

// cluster is stores with disks of their own on the test's goroutine. Frames wait
// until they are delivered.
type cluster struct {
	t     *testing.T
	sites map[wire.StoreID]*site
	// cut says which frames are lost; nil: none.
	cut func(from, to wire.StoreID) bool
	// snapshots has machines make one every so many entries; zero: never.
	snapshots uint64
	acked     []string
	next      int
}

type site struct {
	c        *cluster
	id       wire.StoreID
	disk     *vfs.MemFS
	store    *engine.Store
	steps    *engine.Stepper
	machine  *ledger
	handler  transport.Handler
	inbox    []frame
	failures []error // of groups, as events told
}

type frame struct {
	from    wire.StoreID
	payload []byte
}

func (s *site) Start(h transport.Handler) error { s.handler = h; return nil }
func (s *site) Buffer() []byte                  { return nil }
func (s *site) Stats() transport.Stats          { return transport.Stats{} }
func (s *site) Close() error                    { return nil }

func (s *site) Send(to wire.StoreID, _ transport.Lane, payload []byte) error {
	peer := s.c.sites[to]
	if peer == nil || peer.store == nil || s.c.cut != nil && s.c.cut(s.id, to) {
		return nil
	}
	peer.inbox = append(peer.inbox, frame{s.id, payload})
	return nil
}

// ledger remembers every command in order.
type ledger struct{ commands []string }

func (l *ledger) Apply(entries []engine.Entry) error {
	for _, e := range entries {
		l.commands = append(l.commands, string(e.Command))
	}
	return nil
}

func (l *ledger) Query(any) (any, error) { return len(l.commands), nil }

func (l *ledger) Snapshot() (io.WriterTo, error) {
	return bytes.NewBufferString(strings.Join(l.commands, "\n")), nil
}

func (l *ledger) Restore(_ wire.Index, r io.Reader) error {
	b, err := io.ReadAll(r)
	l.commands = nil
	if len(b) > 0 {
		l.commands = strings.Split(string(b), "\n")
	}
	return err
}

const dir = "/store"

func newCluster(t *testing.T, stores int) *cluster {
	c := &cluster{t: t, sites: map[wire.StoreID]*site{}}
	for id := wire.StoreID(1); int(id) <= stores; id++ {
		c.sites[id] = &site{c: c, id: id, disk: vfs.New(vfs.Options{})}
	}
	return c
}

// ids returns the stores in order.
func (c *cluster) ids() []wire.StoreID {
	var ids []wire.StoreID
	for id := wire.StoreID(1); int(id) <= len(c.sites); id++ {
		ids = append(ids, id)
	}
	return ids
}

// open opens stores.
func (c *cluster) open(ids ...wire.StoreID) {
	c.t.Helper()
	for _, id := range ids {
		s := c.sites[id]
		keep := uint64(1)
		if c.snapshots == 0 {
			keep = 0
		}
		store, steps, err := engine.OpenStepped(engine.Config{
			Cluster: 7, ID: id, Dir: dir, FS: s.disk, Seed: uint64(id), Transport: s,
			SegmentBytes: 64 << 10, MaxCommandBytes: 1 << 10, Workers: 1, Appliers: 1, Tuning: group.Tuning{ElectionTicks: 10},
			SnapshotEntries: c.snapshots, KeepEntries: keep,
			Events: engine.Events{GroupFailed: func(err *engine.GroupFailedError) { s.failures = append(s.failures, err) }},
			Join: func(engine.JoinRequest) (engine.GroupConfig, error) {
				s.machine = new(ledger)
				return engine.GroupConfig{StateMachine: s.machine}, nil
			},
		})
		if err != nil {
			c.t.Fatal(err)
		}
		s.store, s.steps, s.inbox = store, steps, nil
		for _, other := range c.sites {
			if other != s {
				s.handler.PeerUp(other.id, 1, wire.ProtocolVersion)
			}
		}
	}
}

// start starts group 1 on stores; members are left out when it is stored there.
func (c *cluster) start(members []engine.Member, ids ...wire.StoreID) {
	c.t.Helper()
	for _, id := range ids {
		if err := c.tryStart(id, members); err != nil {
			c.t.Fatalf("start on store %d: %v", id, err)
		}
	}
}

func (c *cluster) tryStart(id wire.StoreID, members []engine.Member) error {
	s := c.sites[id]
	s.machine = new(ledger)
	_, err := s.store.StartGroup(context.Background(), engine.GroupConfig{ID: 1, Members: members, StateMachine: s.machine})
	return err
}

// kill has stores lose power.
func (c *cluster) kill(ids ...wire.StoreID) {
	for _, id := range ids {
		s := c.sites[id]
		s.disk = s.disk.CrashClone(rand.New(rand.NewPCG(1, uint64(id))), vfs.AllLost)
		s.store, s.steps, s.inbox = nil, nil, nil
	}
}

func (c *cluster) tick() {
	for _, id := range c.ids() {
		if s := c.sites[id]; s.store != nil {
			s.steps.Tick()
		}
	}
	for again := true; again; {
		again = false
		for _, id := range c.ids() {
			s := c.sites[id]
			if s.store == nil {
				continue
			}
			inbox := s.inbox
			s.inbox = nil
			for _, f := range inbox {
				s.handler.HandleFrame(f.from, f.payload)
			}
			again = again || len(inbox) > 0
			for s.steps.Worker(0) || s.steps.Applier(0) || s.steps.Log() || s.steps.Events() || s.steps.Join() || s.steps.Snapshots() || s.steps.Maintain() {
				again = true
			}
		}
	}
}

// until ticks until a condition holds.
func (c *cluster) until(what string, condition func() bool) {
	c.t.Helper()
	for range 3000 {
		if condition() {
			return
		}
		c.tick()
	}
	for _, id := range c.ids() {
		if s := c.sites[id]; s.store != nil {
			if g, ok := s.store.Group(1); ok {
				c.t.Logf("store %d: %+v", id, g.Status())
			}
		}
	}
	c.t.Fatalf("in vain: %s", what)
}

// leader returns the replica that leads on one of the stores, nil when none does.
func (c *cluster) leader(among ...wire.StoreID) *engine.Group {
	for _, id := range among {
		if s := c.sites[id]; s.store != nil {
			if g, ok := s.store.Group(1); ok && g.Err() == nil && g.IsLeader() {
				return g
			}
		}
	}
	return nil
}

type done struct{ ok, failed int }

func (d *done) ProposalsDone(list []*engine.Pending) {
	for _, p := range list {
		if _, err := p.Result(); err != nil {
			d.failed++
		} else {
			d.ok++
		}
	}
}

// propose has the leader among stores write one command. It is not waited for.
func (c *cluster) propose(d *done, among ...wire.StoreID) (command string) {
	c.t.Helper()
	c.until("a leader", func() bool { return c.leader(among...) != nil })
	c.next++
	command = fmt.Sprintf("%d by %d", c.next, c.leader(among...).Store().ID())
	if err := c.leader(among...).ProposeAsync([]byte(command), engine.NewPending(d)); err != nil {
		c.t.Fatal(err)
	}
	return command
}

// write has commands acknowledged by the leader among stores.
func (c *cluster) write(n int, among ...wire.StoreID) {
	c.t.Helper()
	for range n {
		for {
			d := new(done)
			command := c.propose(d, among...)
			c.until("write "+command, func() bool { return d.ok+d.failed > 0 })
			if d.ok > 0 {
				c.acked = append(c.acked, command)
				break
			}
		}
	}
}

// partition loses frames between the stores named and all others.
func (c *cluster) partition(side ...wire.StoreID) {
	c.cut = func(from, to wire.StoreID) bool { return slices.Contains(side, from) != slices.Contains(side, to) }
}

// change changes the members; the leader among stores is asked until it has taken
// the change.
func (c *cluster) change(m group.MembershipChange, among ...wire.StoreID) (finished *bool) {
	c.t.Helper()
	finished = new(bool)
	c.until("a change is taken", func() bool {
		g := c.leader(among...)
		if g == nil {
			return false
		}
		var refused *group.MembershipError
		err := g.ChangeMembersAsync(m, func(_ engine.Membership, err error) {
			if errors.As(err, &refused) {
				c.t.Errorf("change refused: %v", err)
			}
			*finished = err == nil
		})
		return err == nil
	})
	return finished
}

// survey looks at the disks of stores, and sends what it finds through a file.
func (c *cluster) survey(ids ...wire.StoreID) []*recovery.Survey {
	c.t.Helper()
	var surveys []*recovery.Survey
	for _, id := range ids {
		calls := c.sites[id].disk.Calls()
		changed := ""
		c.sites[id].disk.SetHook(func(op vfs.Op) vfs.Fault {
			if op.Kind.Mutates() {
				changed = fmt.Sprint(op)
			}
			return vfs.Fault{}
		})
		s, err := c.disk(id).Survey()
		c.sites[id].disk.SetHook(nil)
		if err != nil {
			c.t.Fatal(err)
		}
		if changed != "" || c.sites[id].disk.Calls() == calls {
			c.t.Errorf("looking at store %d changed it: %s", id, changed)
		}
		b, err := json.Marshal(s)
		if err != nil {
			c.t.Fatal(err)
		}
		again := new(recovery.Survey)
		if err := json.Unmarshal(b, again); err != nil {
			c.t.Fatal(err)
		}
		surveys = append(surveys, again)
	}
	return surveys
}

func (c *cluster) disk(id wire.StoreID) recovery.Disk {
	return recovery.Disk{FS: c.sites[id].disk, Dir: dir}
}

// plan makes a plan for what the stores hold, and sends it through a file.
func (c *cluster) plan(o recovery.Options, ids ...wire.StoreID) *recovery.Plan {
	c.t.Helper()
	p, err := recovery.NewPlan(c.survey(ids...), o)
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := p.Encode()
	if err != nil {
		c.t.Fatal(err)
	}
	again, err := recovery.DecodePlan(b)
	if err != nil {
		c.t.Fatal(err)
	}
	want, _ := p.Hash()
	if got, _ := again.Hash(); got != want {
		c.t.Errorf("the plan has the hash %s after it was read again, %s before", got, want)
	}
	return again
}

func (c *cluster) apply(p *recovery.Plan, ids ...wire.StoreID) {
	c.t.Helper()
	confirm, err := p.Confirmation()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := c.disk(id).Apply(p, recovery.ApplyOptions{Confirm: confirm}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// members returns a voter on each of the stores, with the same number.
func members(ids ...wire.StoreID) []engine.Member {
	var list []engine.Member
	for _, id := range ids {
		list = append(list, engine.Member{Replica: wire.ReplicaID(id), Store: id})
	}
	return list
}

// serves writes on the survivors, and waits until all of them hold the same.
func (c *cluster) serves(ids ...wire.StoreID) {
	c.t.Helper()
	c.write(3, ids...)
	last := c.acked[len(c.acked)-1]
	c.until("the survivors agree", func() bool {
		for _, id := range ids {
			s := c.sites[id]
			if !slices.Contains(s.machine.commands, last) || !slices.Equal(s.machine.commands, c.sites[ids[0]].machine.commands) {
				return false
			}
		}
		return true
	})
}

// expectBarred waits until stores have learned that they are barred, and looks
// whether they still know so after a restart.
func (c *cluster) expectBarred(ids ...wire.StoreID) {
	c.t.Helper()
	var barred *engine.BarredError
	for _, id := range ids {
		s := c.sites[id]
		c.until(fmt.Sprintf("store %d is barred", id), func() bool { return len(s.failures) > 0 })
		if !errors.As(s.failures[0], &barred) || barred.Group != 1 || barred.Generation == 0 {
			c.t.Errorf("store %d: failed with %v", id, s.failures[0])
		}
	}
	for _, id := range ids {
		s := c.sites[id]
		c.kill(id)
		c.open(id)
		if err := c.tryStart(id, nil); !errors.As(err, &barred) {
			c.t.Errorf("store %d: started after it was barred: %v", id, err)
		}
		stored, err := s.store.Stored()
		if err != nil || len(stored) != 1 || !stored[0].Barred {
			c.t.Errorf("store %d: stored are %+v, %v", id, stored, err)
		}
	}
}
