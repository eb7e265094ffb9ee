package group

import "multiraft/wire"

// seldom is what an idle group has nothing of, and a busy one mostly nothing. It
// is made on demand and let go of with the buffers: most groups are idle, and
// would have these words for nothing.
type seldom struct {
	out     []wire.Message // answers that promise nothing, for the next Ready
	refusal *refusal       // owed to the leader: the newest append that does not match
	offer   *SnapshotOffer // for the next Ready
	// changing is the membership handed out and not applied yet.
	changing *wire.Membership
	// floor is Config.Floor until a membership from there on is in force.
	floor wire.Index
	// hurt is why an entry could not be read for a peer, hurtAt which one.
	hurt   error
	hurtAt wire.Index
	// wounded: it has lost its entries, see Wound.
	wounded bool
}

// mutable returns g.seldom, to put something in.
func (g *Group) mutable() *seldom {
	if g.seldom == nil {
		g.seldom = new(seldom)
	}
	return g.seldom
}

// isChanging says whether a membership is handed out and not applied yet.
//
//mr:hotpath
func (g *Group) isChanging() bool { return g.seldom != nil && g.seldom.changing != nil }

// isWounded says whether the entries are lost, see Wound.
//
//mr:hotpath
func (g *Group) isWounded() bool { return g.seldom != nil && g.seldom.wounded }

// refuses says whether a refusal is owed to the leader.
//
//mr:hotpath
func (g *Group) refuses() bool { return g.seldom != nil && g.seldom.refusal != nil }

// dropRefusal owes no refusal any more.
//
//mr:hotpath
func (g *Group) dropRefusal() {
	if g.seldom != nil {
		g.seldom.refusal = nil
	}
}

// dropOffer forgets a snapshot that was offered.
func (g *Group) dropOffer() {
	if g.seldom != nil {
		g.seldom.offer = nil
	}
}

// maxOut bounds answers to others than the leader that wait for the next Ready
// (G11). They are few: refusals, pre-votes, read indexes. One that is dropped
// is as good as lost on the way.
const maxOut = 4096

// send puts a message that promises nothing into the next Ready.
func (g *Group) send(m wire.Message) {
	if s := g.mutable(); len(s.out) < maxOut {
		s.out = append(s.out, m)
	}
}

// take hands out answers and a snapshot that was offered.
//
//mr:hotpath
func (s *seldom) take(rd *Ready) {
	if len(s.out) > 0 {
		rd.Messages = append(rd.Messages, s.out...)
		clear(s.out)
		s.out = s.out[:0]
	}
	rd.SnapshotOffer, s.offer = s.offer, nil
}

// hasReady says whether take has anything to hand out.
//
//mr:hotpath
func (s *seldom) hasReady() bool { return len(s.out) > 0 || s.offer != nil }

// empty says whether s may be let go of.
func (s *seldom) empty() bool {
	return !s.hasReady() && s.refusal == nil && s.changing == nil && s.floor == 0 && s.hurtAt == 0 && !s.wounded
}
