package engine

import (
	"slices"

	"go.uber.org/zap"

	"multiraft/internal/snapfile"
	"multiraft/wire"
)

// sending is one snapshot on its way to one peer. The peer pulls: it asks for
// chunks, and has as many on their way as it wants.
//
//	leader ──Snapshot: what there is──▶ follower's core ─▶ its store
//	leader ◀──SnapshotFetch: chunk n── follower's store
//	leader ──SnapshotChunk──▶ follower's store
//	leader ◀──SnapshotFetch: no more── follower's store
type sending struct {
	replica *replica
	to      wire.ReplicaID
	store   wire.StoreID
	index   wire.Index
	offer   wire.Message
	file    *snapfile.File
	release func()
	wanted  []uint64 // chunks, in the order in which they were asked for
	heard   uint64   // tick of the last word from the peer, of the beginning before there was one
	offered uint64   // tick of the last offer
}

const (
	// sendPatience is for how many election time-outs a peer may be silent before
	// a transfer ends. It can go on later from where it was.
	sendPatience = 10
	// maxWanted bounds the chunks that a peer may have asked for.
	maxWanted = 2 * fetchWindow
)

// takeSnapshots passes on what a core wants of snapshots.
func (w *worker) takeSnapshots(r *replica) {
	rd, set := &w.ready, r.members.Load()
	for _, to := range rd.SnapshotTo {
		at := set.place(to)
		if at < 0 {
			continue // it is asked for again if it comes back
		}
		w.store.snaps.post(snapEvent{kind: snapSend, replica: r, peer: to, store: set.wire.Members[at].Store, term: r.core.Term(), least: r.core.HurtAt()})
	}
	if o := rd.SnapshotOffer; o != nil {
		w.store.snaps.post(snapEvent{kind: snapOffer, replica: r, peer: o.From, index: o.Index, term: o.LogTerm, message: wire.Message{Context: o.Context, Entries: o.Data}})
	}
}

// startSends begins transfers that wait, while there is room.
func (n *snapshots) startSends() (did bool) {
	for len(n.sendable) > 0 && len(n.sends) < n.store.cfg.MaxSnapshots {
		e := n.sendable[0]
		n.sendable = slices.Delete(n.sendable, 0, 1)
		n.startSend(e)
		did = true
	}
	return did
}

// startSend begins a transfer, or has the snapshot made that it needs.
func (n *snapshots) startSend(e snapEvent) {
	r := e.replica
	if r.state() != nil || r.diverged.Load() != nil || !r.isLeader() || uint64(e.term) != r.published.Load() {
		return // the next leadership's core will ask
	}
	report := func(ok bool) {
		r.postSnap(func(m *snapMail) { m.reports = append(m.reports, sendReport{e.peer, e.term, e.index, ok}) })
	}
	for _, t := range n.sends {
		if t.replica == r && t.to == e.peer {
			if e.repair && e.reaches(t.index, t.offer.LogTerm) {
				return // it is on its way
			}
			n.dropSend(t) // in silence: the core would take its end for that of what it asks for now
			break
		}
	}
	makeOne := func() {
		if e.err != nil {
			report(false)
			return
		}
		n.want(r, func(_ wire.Index, err error) {
			if err != nil {
				report(false)
				return
			}
			e.err = errMade // once is enough
			n.sendable = append(n.sendable, e)
		})
	}
	newest, ok := n.newest(r.id)
	if !ok || newest+1 < r.log.First() {
		makeOne()
		return
	}
	name := snapfile.Name{Group: r.id, Index: newest}
	file, release, err := n.open(name)
	if err != nil {
		n.suspect(r, name, err)
		report(false)
		return
	}
	info, now := file.Info(), n.store.now.Load()
	if !e.reaches(info.Index, info.Term) {
		release()
		makeOne()
		return
	}
	n.context++
	t := &sending{
		replica: r, to: e.peer, store: e.store, index: newest, file: file, release: release, heard: now, offered: now,
		offer: wire.Message{
			Kind: wire.Snapshot, Group: r.id, From: r.self, To: e.peer, Term: e.term, Index: newest, LogTerm: info.Term,
			Context: n.context, Entries: appendOffer(nil, n.store.cfg.ID, info),
		},
	}
	n.sends = append(n.sends, t)
	n.send(t.store, &t.offer)
}

// reaches tells whether a snapshot that ends with an entry is what was asked for.
func (e *snapEvent) reaches(index wire.Index, term wire.Term) bool {
	if e.repair {
		return term > e.leastTerm || term == e.leastTerm && index >= e.least
	}
	return index >= e.least
}

// sentMark remembers a snapshot that has arrived: its receiver takes it in now,
// and will need the entries behind it.
type sentMark struct {
	replica *replica
	index   wire.Index
	until   uint64 // tick; the list is in its order
}

// sendingFrom returns the lowest index of the snapshots that are on their way
// from r, or have been a short time ago, zero when there is none.
func (n *snapshots) sendingFrom(r *replica) (lowest wire.Index) {
	marks := slices.Clip(n.sent)
	for _, t := range n.sends {
		marks = append(marks, sentMark{t.replica, t.index, 0})
	}
	for _, m := range marks {
		if m.replica == r && (lowest == 0 || m.index < lowest) {
			lowest = m.index
		}
	}
	return lowest
}

// compactable has the group drop what neither it nor a receiver needs.
func (n *snapshots) compactable(r *replica) {
	index, _ := n.newest(r.id)
	if p := r.apply.plan; p != nil {
		index = max(index, wire.Index(p.reported.Load()))
	}
	if index != 0 && r.state() == nil {
		hold := n.sendingFrom(r)
		r.postSnap(func(m *snapMail) { m.compact, m.hold = max(m.compact, index), hold })
	}
}

// fetched takes a peer's wish for a chunk, or that it wants no more.
func (n *snapshots) fetched(e *snapEvent) {
	m := &e.message
	at := slices.IndexFunc(n.sends, func(t *sending) bool {
		return t.offer.Context == m.Context && t.to == e.peer && t.store == e.store && t.replica == e.replica
	})
	if at < 0 {
		if !m.Reject {
			n.refuse(e)
		}
		return
	}
	t := n.sends[at]
	t.heard = n.store.now.Load()
	chunks := t.file.Info().Chunks
	switch {
	case m.Reject:
		n.endSend(t, uint64(m.Hint) == chunks)
	case uint64(m.Hint) < chunks && len(t.wanted) < maxWanted && !slices.Contains(t.wanted, uint64(m.Hint)):
		t.wanted = append(t.wanted, uint64(m.Hint))
	}
}

// refuse tells a peer that its transfer has ended here.
func (n *snapshots) refuse(e *snapEvent) {
	m := &e.message
	n.send(e.store, &wire.Message{
		Kind: wire.SnapshotChunk, Group: m.Group, From: m.To, To: m.From, Reject: true, Index: m.Index, Hint: m.Hint, Context: m.Context,
	})
}

// serve sends one chunk of each transfer that wants one, as far as the rate goes.
func (n *snapshots) serve() (did bool) {
	for i := 0; i < len(n.sends); i++ {
		t := n.sends[i]
		if len(t.wanted) == 0 || t.replica.diverged.Load() != nil {
			continue
		}
		chunk := t.wanted[0]
		if !n.sendRate.take(t.file.Info().RecordBytes(chunk)) {
			return did
		}
		did = true
		t.wanted = slices.Delete(t.wanted, 0, 1)
		record, err := t.file.Chunk(chunk, n.buf)
		if err != nil {
			name := snapfile.Name{Group: t.replica.id, Index: t.index}
			n.suspect(t.replica, name, err)
			n.refuse(&snapEvent{store: t.store, message: wire.Message{
				Group: t.replica.id, From: t.to, To: t.replica.self, Index: t.index, Context: t.offer.Context}})
			n.endSend(t, false)
			i--
			continue
		}
		n.buf = record
		n.send(t.store, &wire.Message{
			Kind: wire.SnapshotChunk, Group: t.replica.id, From: t.replica.self, To: t.to, Index: t.index,
			Hint: wire.Index(chunk), Context: t.offer.Context, Entries: record,
		})
		n.store.metrics.snapshotBytesSent.Add(int64(len(record)))
	}
	if len(n.sends) > 1 { // the next round begins with another
		n.sends = append(n.sends[1:], n.sends[0])
	}
	return did
}

// tickSend offers again to a peer that is silent, and ends its transfer when it
// stays so. The offer was lost, or the peer was: one that was restarted has a part
// of the file, and does not know whom to ask for the rest.
func (n *snapshots) tickSend(t *sending, now uint64) {
	election := uint64(n.store.electionTicks())
	switch {
	case t.replica.state() != nil || !t.replica.isLeader() || now >= t.heard+sendPatience*election:
		n.endSend(t, false)
	case now >= max(t.heard, t.offered)+election:
		n.offerAgain(t, now)
	}
}

// offerAgain repeats an offer. A peer that knows it already goes on as it did.
func (n *snapshots) offerAgain(t *sending, now uint64) {
	t.offered = now
	if t.replica.diverged.Load() == nil {
		n.send(t.store, &t.offer)
	}
}

// peerUp offers again to a store that can be reached again, once in a tick: its
// connection may have ended because it was restarted.
func (n *snapshots) peerUp(store wire.StoreID) {
	now := n.store.now.Load()
	for _, t := range n.sends {
		if t.store == store && t.offered < now {
			n.offerAgain(t, now)
		}
	}
}

// dropSend lets go of a transfer.
func (n *snapshots) dropSend(t *sending) {
	n.sends = slices.DeleteFunc(n.sends, func(other *sending) bool { return other == t })
	t.release()
}

// endSend ends a transfer and tells the core.
func (n *snapshots) endSend(t *sending, ok bool) {
	n.dropSend(t)
	if ok {
		n.store.metrics.snapshotsSent.Add(1)
		n.sent = append(n.sent, sentMark{t.replica, t.index, n.store.now.Load() + sendPatience*uint64(n.store.electionTicks())})
		if told := n.store.cfg.Events.SnapshotSent; told != nil {
			n.store.events.call(func() { told(t.replica.id, t.to, t.index) })
		}
	} else {
		n.store.metrics.snapshotsFailed.Add(1)
		n.compactable(t.replica)
	}
	if check := n.store.cfg.Logger.Check(zap.DebugLevel, "sent a snapshot"); check != nil {
		check.Write(zap.Uint64("group", uint64(t.replica.id)), zap.Uint64("index", uint64(t.index)), zap.Uint64("to", uint64(t.to)), zap.Bool("ok", ok))
	}
	t.replica.postSnap(func(m *snapMail) { m.reports = append(m.reports, sendReport{t.to, t.offer.Term, t.index, ok}) })
}
