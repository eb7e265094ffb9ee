package engine

import (
	"io"
	"testing"

	"multiraft/batch"
	"multiraft/internal/allocs"
	"multiraft/internal/snapfile"
	"multiraft/internal/vfs"
	"multiraft/transport"
	"multiraft/wire"
)

const (
	framesStores  = 3
	sharedGroup   = wire.GroupID(1)
	sharedDurable = wire.GroupID(2)
	// otherGroup has no member elsewhere, and no message is for it: stores of a
	// cluster are believed what they say of any group (docs/security.md).
	otherGroup = wire.GroupID(0x6d27_10c9_55ae_83f1)
)

// FuzzFrames has other stores send whatever the input says: any bytes as a frame,
// messages of all kinds with any fields, and those that fit what the store does at
// the moment, offers and chunks of snapshots among them. Connections come and go,
// time passes, and the store's own clients write and read meanwhile.
//
// Nothing may panic. Groups that they write to may stop. Another group goes on as if
// nothing had come, and so does the store. What is allocated follows from the bytes
// that came.
func FuzzFrames(f *testing.F) {
	offer, record := offeredSnapshot(f)
	up := []byte{frameUp, 0, 0, 1}
	for kind := range wire.MessageKind(wire.MessageKinds) {
		m := wire.Message{Kind: kind + 1, Group: sharedGroup, From: 2, To: 1, Term: 5, Index: 1, LogTerm: 1, Commit: 1, Context: 1}
		b := m.AppendTo(append(up, frameEncoded))
		f.Add(append(b, frameSettle, frameTick, 3, frameWrite, 0, frameRead, 0))
	}
	// A leader of term 5 offers a snapshot and sends it.
	m := wire.Message{Kind: wire.Snapshot, Group: sharedGroup, From: 2, To: 1, Term: 5, Index: offeredIndex, LogTerm: 1, Context: 7}
	m.Entries = appendOffer(nil, 2, &offer)
	b := append(m.AppendTo(append(up, frameEncoded)), frameSettle, frameEncoded)
	m = wire.Message{Kind: wire.SnapshotChunk, Group: sharedGroup, From: 2, To: 1, Index: offeredIndex, Context: 7, Entries: record}
	f.Add(append(m.AppendTo(b), frameSettle, frameTick, 0, frameWrite, 0, frameRead, 0))
	// This replica is elected and takes what is forwarded.
	b = append(up, frameTick, 31, frameTick, 31)
	for term := range wire.Term(4) {
		for _, kind := range []wire.MessageKind{wire.PreVoteResponse, wire.VoteResponse} {
			m := wire.Message{Kind: kind, Group: sharedGroup, From: 2, To: 1, Term: term}
			b = append(m.AppendTo(append(b, frameEncoded)), frameSettle)
		}
	}
	m = wire.Message{Kind: wire.Propose, Group: sharedGroup, From: 2, To: 1, Term: 1, Context: 1, Entries: wire.AppendPayload(nil, []byte("x"))}
	f.Add(append(m.AppendTo(append(b, frameEncoded)), frameSettle, frameWrite, 0, frameSettle))
	f.Add([]byte{frameMessages, 0, 3, 1, 0, 2, 2, 0, 1, 1, 1, 0, 1, 2, frameSettle, frameTick, 1, frameRaw, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8})

	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 8<<10 {
			return
		}
		// An operation takes a byte, and may have a group write to its log, make a
		// snapshot, or tell two peers something. The rest is the store itself, whose
		// segments are in the memory of this disk.
		allocs.AtMost(t, framesBaseBytes+framesStepBytes*uint64(len(data)), func() {
			run := newFrameRun(t, data, offer, record)
			for len(run.data) > 0 {
				run.step(t)
			}
			run.finish(t)
		})
	})
}

const (
	framesBaseBytes = 2 << 20
	framesStepBytes = 8 << 10
)

const (
	frameRaw      = iota // a length, and as many bytes
	frameMessages        // a count, and the fields of as many
	frameEncoded         // a message as it is encoded
	frameSettle
	frameTick
	frameUp
	frameDown
	frameWrite
	frameRead
	frameOperations
)

// frameRun is one store, whose peers are the input.
type frameRun struct {
	data    []byte
	store   *Store
	steps   *Stepper
	peers   fuzzedPeers
	up      map[wire.StoreID]bool
	builder *batch.Builder
	offer   snapfile.Info
	record  []byte
}

// fuzzedPeers is a transport to peers that hear nothing.
type fuzzedPeers struct {
	nowhere
	handler transport.Handler
}

func (p *fuzzedPeers) Start(h transport.Handler) error { p.handler = h; return nil }

// durableMachine holds what is applied itself, and makes no snapshots.
type durableMachine struct{ applied wire.Index }

func (m *durableMachine) Apply(entries []Entry) error {
	m.applied = entries[len(entries)-1].Index
	return nil
}
func (m *durableMachine) Query(any) (any, error)            { return m.applied, nil }
func (m *durableMachine) AppliedIndex() (wire.Index, error) { return m.applied, nil }

func newFrameRun(t *testing.T, data []byte, offer snapfile.Info, record []byte) *frameRun {
	r := &frameRun{data: data, up: map[wire.StoreID]bool{}, offer: offer, record: record}
	r.builder = batch.NewBuilder(func() []byte { return nil }, 0)
	var err error
	r.store, r.steps, err = OpenStepped(Config{
		Cluster: 1, ID: 1, Dir: "/s", FS: vfs.New(vfs.Options{}), Transport: &r.peers, Seed: 5, NoSync: true,
		SegmentBytes: 64 << 10, MaxCommandBytes: 4 << 10, Workers: 1, Appliers: 1,
		SnapshotEntries: 20, KeepEntries: 5, SnapshotChunkBytes: 512,
		Join: func(JoinRequest) (GroupConfig, error) { return GroupConfig{StateMachine: new(pausing)}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []Member
	for id := range wire.StoreID(framesStores) {
		all = append(all, Member{Replica: wire.ReplicaID(id + 1), Store: id + 1})
	}
	for _, cfg := range []GroupConfig{
		{ID: sharedGroup, Members: all, StateMachine: new(pausing)},
		{ID: sharedDurable, Members: all, StateMachine: new(durableMachine)},
		{ID: otherGroup, Members: all[:1], StateMachine: new(pausing)},
	} {
		if _, err := r.store.StartGroup(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	r.settle()
	return r
}

// next takes a number off the input, a small one most of the time.
func (r *frameRun) next() uint64 {
	if len(r.data) == 0 {
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	if b == 255 {
		return 1<<64 - 1 - r.next()
	}
	return uint64(b % 32)
}

func (r *frameRun) peer() wire.StoreID { return 2 + wire.StoreID(r.next()%framesStores) } // one is none

func (r *frameRun) step(t *testing.T) {
	handler := r.peers.handler
	switch r.next() % frameOperations {
	case frameRaw:
		from := r.peer()
		n := min(int(r.next()*8%256), len(r.data))
		handler.HandleFrame(from, append([]byte(nil), r.data[:n]...))
		r.data = r.data[n:]
	case frameMessages:
		from := r.peer()
		for range r.next() % 8 {
			m := r.message()
			r.builder.Add(&m)
		}
		r.send(t, from)
	case frameEncoded:
		var m wire.Message
		n, err := m.Decode(r.data)
		if err != nil {
			return
		}
		r.data = r.data[n:]
		r.builder.Add(&m)
		r.send(t, wire.StoreID(m.From))
	case frameSettle:
		r.settle()
	case frameTick:
		for range 1 + r.next()%32 {
			r.steps.Tick()
			r.settle()
		}
	case frameUp:
		if peer := r.peer(); !r.up[peer] {
			r.up[peer] = true
			handler.PeerUp(peer, 1+r.next(), uint16(wire.MinProtocolVersion+r.next()%(wire.ProtocolVersion-wire.MinProtocolVersion+1)))
		}
	case frameDown:
		if peer := r.peer(); r.up[peer] {
			r.up[peer] = false
			handler.PeerDown(peer, io.ErrUnexpectedEOF)
		}
	case frameWrite:
		if g, ok := r.store.Group(r.ours()); ok {
			_ = g.ProposeAsync([]byte("write"), NewPending(noPendings{})) // it may have stopped
		}
	case frameRead:
		if g, ok := r.store.Group(r.ours()); ok {
			_ = g.ReadAsync(nil, func(any, error) {}) // as above
		}
	}
}

// send delivers what is in the builder.
func (r *frameRun) send(t *testing.T, from wire.StoreID) {
	err := r.builder.Flush(func(_ wire.Lane, payload []byte) error {
		r.peers.handler.HandleFrame(from, append([]byte(nil), payload...))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// group is one that messages are for; there is no group 3, which may be joined.
func (r *frameRun) group() wire.GroupID { return 1 + wire.GroupID(r.next()%3) }

// ours is a group that clients use.
func (r *frameRun) ours() wire.GroupID {
	return [...]wire.GroupID{sharedGroup, sharedDurable, otherGroup}[r.next()%3]
}

// message makes a message with small numbers and, for some kinds, contents that fit.
func (r *frameRun) message() wire.Message {
	m := wire.Message{
		Kind: wire.MessageKind(1 + r.next()%uint64(wire.MessageKinds)), Group: r.group(),
		From: wire.ReplicaID(1 + r.next()%5), To: wire.ReplicaID(1 + r.next()/16),
		Term: wire.Term(r.next()), Index: wire.Index(r.next()), LogTerm: wire.Term(r.next()),
		Commit: wire.Index(r.next()), Hint: wire.Index(r.next()), Context: r.next(), Reject: r.next()%4 == 3,
	}
	switch m.Kind {
	case wire.Append:
		index, term := m.Index+1, max(m.LogTerm, 1)
		for range r.next() % 3 {
			kind := wire.EntryCommand
			if r.next()%8 == 7 {
				kind = wire.EntryConfig
			}
			count := 1 + int(r.next()%3)
			b := wire.NewBlock(nil)
			for range count {
				b = wire.AppendPayload(b, []byte{byte(term)})
			}
			b.Seal(m.Group, index, term, kind, count)
			m.Entries = append(m.Entries, b...)
			index += wire.Index(count)
		}
	case wire.Propose:
		for range r.next() % 4 {
			m.Entries = wire.AppendPayload(m.Entries, []byte("forwarded"))
		}
	case wire.ProposeResponse:
		for range r.next() % 4 {
			m.Entries = appendResult(m.Entries, resultStatus(r.next()%5), &Result{Value: r.next()})
		}
	case wire.Snapshot:
		if m.Entries = appendOffer(nil, r.peer(), &r.offer); r.next()%2 == 0 {
			m.Group, m.Index, m.LogTerm = sharedGroup, offeredIndex, 1
		}
	case wire.SnapshotChunk:
		m.Entries = append([]byte(nil), r.record...)
	default:
		n := min(int(r.next()%64), len(r.data))
		m.Entries, r.data = append([]byte(nil), r.data[:n]...), r.data[n:]
	}
	return m
}

// settle takes steps until no part has anything to do, or for long enough.
func (r *frameRun) settle() {
	d := r.steps
	for range 200 {
		did := d.Log()
		did = d.Worker(0) || did
		did = d.Applier(0) || did
		did = d.Snapshots() || did
		did = d.Events() || did
		did = d.Join() || did
		if !did && !d.Maintain() {
			return
		}
	}
}

// finish checks what may not have changed, and closes the store.
func (r *frameRun) finish(t *testing.T) {
	r.settle()
	if err := r.store.Err(); err != nil {
		t.Fatalf("the store has failed: %v", err)
	}
	g, ok := r.store.Group(otherGroup)
	if !ok {
		t.Fatal("a group of one is gone")
	}
	for ticks := 0; !g.IsLeader(); ticks++ {
		if ticks == 200 {
			t.Fatalf("no leader of a group of one: %+v", g.Status())
		}
		r.steps.Tick()
		r.settle()
	}
	before := g.Status()
	p := NewPending(noPendings{})
	if err := g.ProposeAsync([]byte("last"), p); err != nil {
		t.Fatal(err)
	}
	read := io.EOF
	if err := g.ReadAsync(nil, func(_ any, err error) { read = err }); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.settle()
		r.steps.Tick()
	}
	if after := g.Status(); after.Applied <= before.Applied || p.err != nil || read != nil || after.Term > 2 {
		t.Fatalf("a group of one: %v, %v, %+v, then %+v", p.err, read, before, after)
	}
	if err := r.steps.Close(); err != nil {
		t.Fatal(err)
	}
}

const offeredIndex = 12

// offeredSnapshot returns the description of a snapshot of sharedGroup, and its only
// chunk.
func offeredSnapshot(t testing.TB) (snapfile.Info, []byte) {
	dir, _, err := snapfile.OpenDir(vfs.New(vfs.Options{}), "/", true)
	if err != nil {
		t.Fatal(err)
	}
	w, err := dir.Create(snapfile.Meta{
		Cluster: 1, Store: 2, Group: sharedGroup, Index: offeredIndex, Term: 1, Nonce: 3, ChunkBytes: snapfile.MinChunkBytes,
		Members: wire.Membership{Members: []Member{{Replica: 1, Store: 1, Role: wire.Voter}, {Replica: 2, Store: 2, Role: wire.Voter}}, MaxReplica: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("state")); err != nil {
		t.Fatal(err)
	}
	info, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	file, err := dir.Open(snapfile.Name{Group: sharedGroup, Index: offeredIndex})
	if err != nil {
		t.Fatal(err)
	}
	record, err := file.Chunk(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	return *info, record
}
