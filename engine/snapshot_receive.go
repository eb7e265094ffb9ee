package engine

import (
	"encoding/binary"
	"errors"
	"slices"

	"go.uber.org/zap"

	"multiraft/internal/snapfile"
	"multiraft/wire"
)

// receiving is one snapshot on its way here. What has come is in a file, so that
// a cut connection, another sender of the same snapshot or a restart cost no
// more than what was on its way.
type receiving struct {
	replica *replica
	from    wire.ReplicaID
	store   wire.StoreID // where from lives
	context uint64
	info    snapfile.Info
	part    *snapfile.Part
	resumed bool
	asked   [snapfile.Window]uint64 // tick in which a chunk was asked for plus one, by number modulo its length
	heard   uint64                  // tick of the last word from the sender
	arrived uint64                  // tick of the last chunk, of the beginning before there was one
	gap     uint64                  // ticks between it and the one before
}

const (
	// fetchWindow is how many chunks are asked for ahead: with chunks of 256 KiB
	// 2 MiB, which is 100 MiB/s at a round trip of 20 ms.
	fetchWindow = 8
	// receivePatience is for how many election time-outs a sender may be silent.
	receivePatience = 10
	// maxAskPatience is for how many election time-outs a chunk is waited for, at
	// most, before it is asked for again.
	maxAskPatience = 4
)

const _ = uint(snapfile.Window - fetchWindow)

// appendOffer encodes what the Snapshot message of the core carries for the
// store: where to ask for chunks, and of what.
func appendOffer(dst []byte, store wire.StoreID, info *snapfile.Info) []byte {
	return info.AppendTo(binary.LittleEndian.AppendUint64(dst, uint64(store)))
}

func decodeOffer(b []byte, info *snapfile.Info) (store wire.StoreID, err error) {
	if len(b) < 8 || len(b) > 8+snapfile.MaxInfoBytes {
		return 0, snapfile.ErrHeader
	}
	return wire.StoreID(binary.LittleEndian.Uint64(b)), info.Decode(b[8:])
}

// offered begins to receive what a leader offers, or goes on with it from
// another sender.
func (n *snapshots) offered(e *snapEvent) {
	r, m := e.replica, &e.message
	var info snapfile.Info
	store, err := decodeOffer(m.Entries, &info)
	if err != nil || info.Cluster != n.store.cfg.Cluster || info.Group != r.id || info.Index != e.index || info.Term != e.term || len(info.Members.Members) == 0 {
		n.failed("an offered snapshot is not of this group", snapfile.Name{Group: r.id, Index: e.index}, err)
		return
	}
	if r.state() != nil || r.apply.plan == nil {
		return // the sender will see that nobody asks
	}
	now := n.store.now.Load()
	at := slices.IndexFunc(n.receives, func(t *receiving) bool { return t.replica.id == r.id })
	if at >= 0 {
		t := n.receives[at]
		if t.replica == r && t.info.Same(&info) {
			// Another leader, or the same one once more: what is there stays.
			if t.context != m.Context {
				t.from, t.store, t.context, t.asked = e.peer, store, m.Context, [snapfile.Window]uint64{}
			}
			t.heard = now
			return
		}
		if t.replica == r && t.from != e.peer && now < t.heard+uint64(n.store.electionTicks()) {
			return // one that makes progress is not given up for another
		}
		n.endReceive(t, false)
	}
	if len(n.receives) >= n.store.cfg.MaxSnapshots {
		return // it is offered again
	}
	name := snapfile.Name{Group: r.id, Index: info.Index}
	if old, ok := n.parts[r.id]; ok && old != name {
		n.note("remove an old part of a snapshot", old, n.dir.RemovePart(old))
	}
	part, err := n.dir.Receive(&info)
	if err != nil {
		n.failed("begin to receive a snapshot", name, err)
		return
	}
	n.parts[r.id] = name
	n.receives = append(n.receives, &receiving{
		replica: r, from: e.peer, store: store, context: m.Context, info: info, part: part, heard: now, arrived: now,
	})
}

// chunk takes a chunk that came.
func (n *snapshots) chunk(e *snapEvent) {
	m := &e.message
	at := slices.IndexFunc(n.receives, func(t *receiving) bool {
		return t.context == m.Context && t.from == e.peer && t.store == e.store && t.replica == e.replica
	})
	if at < 0 {
		return // late
	}
	t := n.receives[at]
	if m.Reject {
		n.endReceive(t, false)
		return
	}
	if !t.resumed {
		return // nothing was asked for yet
	}
	n.store.metrics.snapshotBytesReceived.Add(int64(len(m.Entries)))
	t.asked[uint64(m.Hint)%snapfile.Window] = 0
	err := t.part.Put(uint64(m.Hint), m.Entries)
	switch {
	case errors.Is(err, snapfile.ErrChunk), errors.Is(err, snapfile.ErrWindow):
		n.failed("a chunk of a snapshot is not what it should be", snapfile.Name{Group: t.info.Group, Index: t.info.Index}, err)
	case err != nil:
		n.abandon(t, err)
	default:
		now := n.store.now.Load()
		t.heard, t.gap, t.arrived = now, now-t.arrived, now
	}
}

// receive has each transfer do what it can: look what it has, ask for more, or
// come to its end.
func (n *snapshots) receive() (did bool) {
	for i := len(n.receives) - 1; i >= 0; i-- {
		t := n.receives[i]
		if !t.resumed {
			done, err := t.part.Resume()
			if t.resumed, did = done, true; err != nil {
				n.abandon(t, err)
			}
			continue
		}
		if t.part.Complete() {
			n.complete(t)
			did = true
			continue
		}
		did = n.fetch(t) || did
	}
	return did
}

// fetch asks for the chunks that are missing next and not on their way.
//
// One that does not come is asked for again when nothing has come for an election
// time-out, or for twice the time between the last two. Its own age alone says
// nothing: on a link that a window of chunks fills for longer than that, all would
// be asked for, and sent, again and again, and each time later.
func (n *snapshots) fetch(t *receiving) (did bool) {
	now, election := n.store.now.Load(), uint64(n.store.electionTicks())
	patience := min(max(election, 2*t.gap), maxAskPatience*election)
	for chunk := t.part.Next(); chunk < min(t.part.Next()+fetchWindow, t.info.Chunks); chunk++ {
		asked := &t.asked[chunk%snapfile.Window]
		if t.part.Has(chunk) || *asked != 0 && now < max(*asked-1, t.arrived)+patience {
			continue
		}
		if !n.recvRate.take(t.info.RecordBytes(chunk)) {
			return did
		}
		*asked = now + 1
		n.send(t.store, t.message(chunk, false))
		did = true
	}
	return did
}

// message asks for a chunk, or tells that no more is wanted.
func (t *receiving) message(chunk uint64, end bool) *wire.Message {
	return &wire.Message{
		Kind: wire.SnapshotFetch, Group: t.info.Group, From: t.replica.self, To: t.from, Reject: end,
		Index: t.info.Index, Hint: wire.Index(chunk), Context: t.context,
	}
}

// complete makes the file durable and hands it to the group.
func (n *snapshots) complete(t *receiving) {
	name := snapfile.Name{Group: t.info.Group, Index: t.info.Index}
	err := t.part.Commit()
	delete(n.parts, t.info.Group)
	if err != nil {
		n.failed("complete a received snapshot", name, err)
		n.send(t.store, t.message(0, true))
		n.endReceive(t, false)
		return
	}
	n.store.metrics.snapshotsReceived.Add(1)
	n.send(t.store, t.message(t.info.Chunks, true))
	n.endReceive(t, true)
	info := t.info
	in := &install{info: &info}
	refused := in
	if t.replica.postSnap(func(m *snapMail) { refused, m.install = m.install, in }) && (refused == nil || refused.name() == name) {
		return
	}
	n.discard(refused.name()) // the replica has ended, or an older one waited for its turn
}

// abandon drops what came, because the disk does not take it.
func (n *snapshots) abandon(t *receiving, err error) {
	name := snapfile.Name{Group: t.info.Group, Index: t.info.Index}
	n.failed("receive a snapshot", name, errors.Join(err, t.part.Remove()))
	delete(n.parts, t.info.Group)
	n.send(t.store, t.message(0, true))
	n.endReceive(t, false)
}

// tickReceive ends a transfer whose sender is silent. What came stays.
func (n *snapshots) tickReceive(t *receiving, now uint64) {
	if t.replica.state() != nil || now >= t.heard+receivePatience*uint64(n.store.electionTicks()) {
		n.endReceive(t, false)
	}
}

// endReceive forgets a transfer; its file stays as it is.
func (n *snapshots) endReceive(t *receiving, ok bool) {
	n.receives = slices.DeleteFunc(n.receives, func(other *receiving) bool { return other == t })
	name := snapfile.Name{Group: t.info.Group, Index: t.info.Index}
	n.note("close a part of a snapshot", name, t.part.Close())
	if check := n.store.cfg.Logger.Check(zap.DebugLevel, "received a snapshot"); check != nil {
		check.Write(zap.Uint64("group", uint64(name.Group)), zap.Uint64("index", uint64(name.Index)), zap.Uint64("from", uint64(t.from)), zap.Bool("ok", ok))
	}
}
