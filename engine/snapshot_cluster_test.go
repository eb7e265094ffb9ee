package engine_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"multiraft/batch"
	"multiraft/engine"
	"multiraft/internal/vfs"
	"multiraft/transport"
	"multiraft/wire"
)

// book is a state machine that makes snapshots: it remembers every command, and
// can be made heavy, so that its snapshots have many chunks.
type book struct {
	commands []string
	weight   int    // bytes added to each command in a snapshot
	disk     *pages // what it keeps itself; nil: nothing

	captures, restores int
	fail               error  // of Snapshot, WriteTo and Restore
	during             func() // called by the next WriteTo, once
	applied            []wire.Index
}

// pages are what a durable book keeps over restarts.
type pages struct {
	commands []string
	index    wire.Index
}

func (b *book) Apply(entries []engine.Entry) error {
	for i := range entries {
		b.commands = append(b.commands, string(entries[i].Command))
		b.applied = append(b.applied, entries[i].Index)
		entries[i].Result.Value = uint64(len(b.commands))
		if b.disk != nil {
			*b.disk = pages{append([]string(nil), b.commands...), entries[i].Index}
		}
	}
	return nil
}

func (b *book) Query(any) (any, error) { return len(b.commands), nil }

func (b *book) Snapshot() (io.WriterTo, error) {
	b.captures++
	if b.fail != nil {
		return nil, b.fail
	}
	c := &bookCopy{commands: b.commands[:len(b.commands):len(b.commands)], weight: b.weight, during: b.during}
	b.during = nil
	return c, nil
}

type bookCopy struct {
	commands []string
	weight   int
	during   func()
}

func (c *bookCopy) WriteTo(w io.Writer) (n int64, err error) {
	if c.during != nil {
		c.during()
	}
	filler := strings.Repeat("x", c.weight)
	for _, command := range c.commands {
		record := binary.LittleEndian.AppendUint32(nil, uint32(len(command)))
		record = append(record, command...)
		record = binary.LittleEndian.AppendUint32(record, uint32(len(filler)))
		k, err := w.Write(append(record, filler...))
		if n += int64(k); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (b *book) Restore(index wire.Index, r io.Reader) error {
	b.restores++
	if b.fail != nil {
		return b.fail
	}
	all, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	b.commands = nil
	for len(all) > 0 {
		n := binary.LittleEndian.Uint32(all)
		b.commands = append(b.commands, string(all[4:4+n]))
		all = all[4+n:]
		all = all[4+binary.LittleEndian.Uint32(all):]
	}
	if b.disk != nil {
		*b.disk = pages{append([]string(nil), b.commands...), index}
	}
	return nil
}

// plainBook makes no snapshots.
type plainBook struct{ b *book }

func (p plainBook) Apply(entries []engine.Entry) error { return p.b.Apply(entries) }
func (p plainBook) Query(q any) (any, error)           { return p.b.Query(q) }

// durableBook tells where it is after a restart.
type durableBook struct{ *book }

func (b durableBook) AppliedIndex() (wire.Index, error) { return b.disk.index, nil }

// place is one store of a snapCluster and its disk.
type place struct {
	id      wire.StoreID
	fs      *vfs.MemFS
	store   *engine.Store
	steps   *engine.Stepper
	inbox   []relayFrame
	handler transport.Handler
	newest  uint16 // protocol version
	books   map[wire.GroupID]*book
	disks   map[wire.GroupID]*pages // of durable books

	noEvents bool        // its event loop stands still
	noLog    func() bool // says when its log does
}

// snapCluster is stepped stores on virtual disks, on the test's goroutine.
type snapCluster struct {
	t       testing.TB
	r       *rand.Rand
	places  []*place
	members []engine.Member
	groups  []wire.GroupID
	change  func(*engine.Config)
	weight  int
	durable bool
	// linked has the transport tell of peers, and so of the protocol spoken with them.
	linked bool
	// wrap changes the machine that a group is started with; nil: it does not.
	wrap  func(p *place, id wire.GroupID, b *book) engine.StateMachine
	plain bool // machines make no snapshots
	// pass decides about each message on its way, and may change it; nil: all
	// pass.
	pass    func(from, to wire.StoreID, m *wire.Message) bool
	slow    *slowLink // one way between two stores; nil: all are as fast as steps
	writing bool      // a state machine writes a snapshot, so that the loops of snapshots wait
	chunks  int       // snapshot chunks with content that were delivered
	count   tally
	sent    int
}

type placeEnd struct {
	c      *snapCluster
	at     int
	newest uint16
}

func (e *placeEnd) LimitProtocol(newest uint16) error { e.newest = newest; return nil }

func (e *placeEnd) Start(h transport.Handler) error {
	p := e.c.places[e.at]
	p.handler, p.newest = h, e.newest
	if !e.c.linked {
		return nil
	}
	for _, peer := range e.c.places {
		if peer.handler != nil && peer != p {
			protocol := min(p.newest, peer.newest)
			peer.handler.PeerDown(p.id, io.EOF) // it was never told of the end of the last life
			peer.handler.PeerUp(p.id, 1, protocol)
			h.PeerUp(peer.id, 1, protocol)
		}
	}
	return nil
}
func (e *placeEnd) Close() error           { return nil }
func (e *placeEnd) Stats() transport.Stats { return transport.Stats{} }
func (e *placeEnd) Buffer() []byte         { return nil }

func (e *placeEnd) Send(to wire.StoreID, lane wire.Lane, payload []byte) error {
	peer := e.c.places[to-1]
	frame := relayFrame{from: e.c.places[e.at].id, payload: append([]byte(nil), payload...)}
	if l := e.c.slow; l != nil && l.from == frame.from && l.to == to {
		l.push(lane, frame)
		return nil
	}
	peer.inbox = append(peer.inbox, frame)
	return nil
}

// slowLink lets so many bytes pass in a tick, those of the urgent lane first.
type slowLink struct {
	from, to wire.StoreID
	perTick  int
	oneLane  bool // nothing is urgent
	lanes    [wire.LaneCount][]relayFrame
	left     int // bytes that may pass, less than none after a large frame
}

func (l *slowLink) push(lane wire.Lane, frame relayFrame) {
	if l.oneLane {
		lane = wire.Bulk
	}
	l.lanes[lane] = append(l.lanes[lane], frame)
}

// tick delivers what has passed.
func (l *slowLink) tick(c *snapCluster) {
	l.left = min(l.left+l.perTick, l.perTick)
	to := c.places[l.to-1]
	for lane := range l.lanes {
		for len(l.lanes[lane]) > 0 && l.left > 0 {
			frame := l.lanes[lane][0]
			l.lanes[lane] = l.lanes[lane][1:]
			l.left -= len(frame.payload)
			to.inbox = append(to.inbox, frame)
		}
	}
}

func newSnapCluster(t testing.TB, stores int, groups []wire.GroupID, change func(*engine.Config)) *snapCluster {
	c := &snapCluster{t: t, r: rand.New(rand.NewPCG(1, 1)), groups: groups, change: change}
	for at := range stores {
		id := wire.StoreID(at + 1)
		c.places = append(c.places, &place{id: id, fs: vfs.New(vfs.Options{}), disks: map[wire.GroupID]*pages{}})
		c.members = append(c.members, engine.Member{Replica: wire.ReplicaID(id), Store: id})
	}
	return c
}

func (c *snapCluster) config(at int) engine.Config {
	cfg := engine.Config{
		Cluster: 7, ID: c.places[at].id, Dir: "/store", Seed: uint64(at + 1), FS: c.places[at].fs,
		Transport: &placeEnd{c, at, wire.ProtocolVersion}, SegmentBytes: 64 << 10, MaxCommandBytes: 1 << 10, Workers: 1, Appliers: 1,
		SnapshotEntries: 40, KeepEntries: 10, SnapshotChunkBytes: 512,
		CacheBytes: 1, // what the log does not have, nobody has
	}
	if c.change != nil {
		c.change(&cfg)
	}
	return cfg
}

// machine makes the state machine of a group on a store.
func (c *snapCluster) machine(p *place, id wire.GroupID) engine.StateMachine {
	b := &book{weight: c.weight}
	p.books[id] = b
	if c.wrap != nil {
		return c.wrap(p, id, b)
	}
	if c.plain {
		return plainBook{b}
	}
	if !c.durable {
		return b
	}
	if p.disks[id] == nil {
		p.disks[id] = &pages{}
	}
	b.disk = p.disks[id]
	b.commands = append([]string(nil), b.disk.commands...)
	return durableBook{b}
}

// open starts a store and its groups. It returns why it does not.
func (c *snapCluster) open(at int) error {
	p := c.places[at]
	p.books, p.inbox = map[wire.GroupID]*book{}, nil
	store, steps, err := engine.OpenStepped(c.config(at))
	if err != nil {
		return err
	}
	p.store, p.steps = store, steps
	for _, id := range c.groups {
		if _, err := store.StartGroup(c.t.Context(), engine.GroupConfig{ID: id, Members: c.members, StateMachine: c.machine(p, id)}); err != nil {
			return err
		}
	}
	return nil
}

func (c *snapCluster) mustOpen(places ...int) {
	c.t.Helper()
	for _, at := range places {
		if err := c.open(at); err != nil {
			c.t.Fatalf("store %d: %v", at+1, err)
		}
	}
}

// crash ends the life of a store; its disk is left as the options say.
func (c *snapCluster) crash(at int, o vfs.CrashOptions) {
	p := c.places[at]
	p.store, p.steps, p.handler, p.inbox = nil, nil, nil, nil
	p.fs = p.fs.CrashClone(c.r, o)
}

func (c *snapCluster) close(at int) {
	c.t.Helper()
	p := c.places[at]
	if err := p.steps.Close(); err != nil {
		c.t.Fatal(err)
	}
	p.store, p.steps, p.handler = nil, nil, nil
}

// deliver hands over what waits for a store, message by message.
func (c *snapCluster) deliver(p *place) bool {
	inbox := p.inbox
	p.inbox = nil
	if p.handler == nil {
		return false
	}
	for _, frame := range inbox {
		builder := batch.NewBuilder(func() []byte { return nil }, 0)
		var reader batch.Reader
		reader.Reset(frame.payload)
		for {
			var m wire.Message
			ok, err := reader.Next(&m)
			if err != nil {
				c.t.Fatal(err)
			}
			if !ok {
				break
			}
			if c.pass != nil && !c.pass(frame.from, p.id, &m) {
				continue
			}
			if m.Kind == wire.SnapshotChunk && !m.Reject {
				c.chunks++
			}
			builder.Add(&m)
		}
		if err := builder.Flush(func(_ wire.Lane, payload []byte) error {
			p.handler.HandleFrame(frame.from, payload)
			return nil
		}); err != nil {
			c.t.Fatal(err)
		}
	}
	return len(inbox) > 0
}

// settle takes steps until nothing has anything to do, or a store is gone.
func (c *snapCluster) settle() {
	for again := true; again; {
		again = false
		for _, p := range c.places {
			again = c.step(p) || again
		}
	}
}

// step lets one store do a little of everything. A part may end the store.
func (c *snapCluster) step(p *place) (did bool) {
	for _, part := range []func(*engine.Stepper) bool{
		func(d *engine.Stepper) bool { return c.deliver(p) },
		func(d *engine.Stepper) bool { return d.Worker(0) },
		func(d *engine.Stepper) bool { return (p.noLog == nil || !p.noLog()) && d.Log() },
		func(d *engine.Stepper) bool { return d.Applier(0) },
		func(d *engine.Stepper) bool { return !c.writing && d.Snapshots() },
		func(d *engine.Stepper) bool { return !p.noEvents && d.Events() },
		func(d *engine.Stepper) bool { return d.Join() },
		func(d *engine.Stepper) bool { return d.Maintain() },
	} {
		if p.steps == nil {
			return did
		}
		did = part(p.steps) || did
	}
	return did
}

func (c *snapCluster) tick(n int) {
	for range n {
		for _, p := range c.places {
			if p.steps != nil {
				p.steps.Tick()
			}
		}
		if c.slow != nil {
			c.slow.tick(c)
		}
		c.settle()
	}
}

// until ticks until a condition holds.
func (c *snapCluster) until(what string, condition func() bool) {
	c.t.Helper()
	for range 5000 {
		if condition() {
			return
		}
		c.tick(1)
	}
	for _, p := range c.places {
		if p.store != nil {
			g, _ := p.store.Group(c.groups[0])
			c.t.Logf("store %d: %+v\n%+v", p.id, g.Status(), p.store.Metrics())
		}
	}
	c.t.Fatalf("%s: not reached", what)
}

func (c *snapCluster) group(at int, id wire.GroupID) *engine.Group {
	c.t.Helper()
	g, ok := c.places[at].store.Group(id)
	if !ok {
		c.t.Fatalf("group %d does not run on store %d", id, at+1)
	}
	return g
}

// leader returns the place of the store that leads a group.
func (c *snapCluster) leader(id wire.GroupID) (at int) {
	c.t.Helper()
	c.until("leader", func() bool {
		for at = range c.places {
			if c.places[at].store == nil {
				continue
			}
			if g, ok := c.places[at].store.Group(id); ok && g.Err() == nil && g.IsLeader() {
				return true
			}
		}
		return false
	})
	return at
}

// write proposes n commands to a group and waits until the leader has applied
// them.
func (c *snapCluster) write(id wire.GroupID, n int) {
	c.t.Helper()
	for range n {
		at := c.leader(id)
		p := engine.NewPending(&c.count)
		done := c.count.done
		c.sent++
		err := c.group(at, id).ProposeAsync(fmt.Appendf(nil, "%d:%06d", id, c.sent), p)
		if err != nil {
			c.t.Fatal(err)
		}
		c.settle()
		c.until("write", func() bool { return c.count.done > done })
		if _, err := p.Result(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// converged tells whether all running stores have the same commands of all
// groups, n of them at least.
func (c *snapCluster) converged(n int) bool {
	for _, id := range c.groups {
		var first []string
		for _, p := range c.places {
			if p.store == nil {
				continue
			}
			if g, ok := p.store.Group(id); !ok || g.Err() != nil {
				return false
			}
			commands := p.books[id].commands
			if first == nil {
				first = commands
			}
			if len(commands) < n || strings.Join(commands, " ") != strings.Join(first, " ") {
				return false
			}
		}
	}
	return true
}

// snapshotFiles lists the files of snapshots on a disk.
func (p *place) snapshotFiles(t testing.TB) []string {
	t.Helper()
	names, err := p.fs.List("/store/snapshots")
	if err != nil {
		return nil
	}
	return names
}

// ordered fails the test when a machine was given entries twice or out of order
// in one life.
func (c *snapCluster) ordered() {
	c.t.Helper()
	for _, p := range c.places {
		for id, b := range p.books {
			for i := 1; i < len(b.applied); i++ {
				if b.applied[i] <= b.applied[i-1] {
					c.t.Fatalf("store %d, group %d: entry %d was applied after %d", p.id, id, b.applied[i], b.applied[i-1])
				}
			}
		}
	}
}

var errBook = errors.New("the book is lost")
