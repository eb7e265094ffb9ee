package group

import (
	"errors"

	"multiraft/wire"
)

// A replica that has lost entries, and nothing else, is wounded. It knows its hard
// state and the last entry that it may ever have acknowledged, and takes the state
// of the leader for what it lost:
//
//	wounded ──┬─ follows, votes and promises silence as ever
//	          ├─ takes no entries, and acknowledges and applies none
//	          ├─ never campaigns
//	          └─ Snapshot that reaches as far as its log did ─▶ Restore ─▶ as before
//
// Why that is safe. Others count on two things of a replica: the votes that it gave,
// which the hard state holds, and the entries that it acknowledged. A committed entry
// must stand in the log of every later leader. Elections see to that, as each voter
// grants its vote only to logs that are at least as far as its own; that needs the
// place and the term of its last entry, and no entry. It goes on to compare with
// these. A snapshot whose last entry is at least as far holds every committed entry
// that this replica ever acknowledged: it stands in the log of a leader of its term
// or a later one, with all that was committed in terms before, and with all of its
// own term in front of it. So dropping the log for it takes back nothing that counts.
//
// What is lost is redundancy: until the state is here, the entries that this replica
// had are on one store less. They are lost with the other copies, and not sooner:
// while this replica lives, none is elected without them unless a majority of others
// says so that never had them.

// Wound has a group that runs go on as one that has lost its entries: one cannot be
// read any more. A leader steps down, and tells its best follower to campaign; its
// host hands over before, where it can. Entries that were not handed out yet are
// dropped, nobody has heard of them. It lifts a fault that was such an entry, and
// returns any other.
//
// The host sees to it that what it handed to storage before stays in front of
// whatever it makes of the wound there.
func (g *Group) Wound() error {
	switch {
	case g.isWounded():
		return nil
	case g.fault != nil && !errors.Is(g.fault, wire.ErrDamaged):
		return g.fault
	}
	if g.fault != nil {
		// The Ready that failed was to persist it, perhaps, and nobody has.
		g.fault, g.hardChanged = nil, true
	}
	if g.leading != nil {
		g.bowOut()
	} else {
		g.becomeFollower(g.term, g.lead)
	}
	g.mutable().wounded = true
	if handed := g.log.handed; handed < g.log.last() {
		if err := g.log.truncate(handed+1, g.seq); err != nil {
			return g.fail("G13", handed, "end of the log: %w", err)
		}
	}
	g.log.configs = nil
	g.verified, g.answered, g.owesAck = 0, 0, false
	g.dropRefusal()
	g.dropOffer()
	return nil
}

// Wounded says whether the group waits for a snapshot because it has lost its
// entries, and with what it has to reach at least.
func (g *Group) Wounded() (last wire.Index, term wire.Term, ok bool) {
	return g.log.last(), g.log.lastTerm(), g.isWounded()
}

// Hurt returns, once, why entries could not be read for a peer, nil when they could.
// Peers that need them get a snapshot instead, and the leader goes on: its host may
// want it to hand over.
//
//mr:hotpath
func (g *Group) Hurt() error {
	if g.seldom == nil || g.seldom.hurt == nil {
		return nil
	}
	err := g.seldom.hurt
	g.seldom.hurt = nil
	return err
}

// HurtAt returns an entry that could not be read, zero when there is none: a
// snapshot for a peer has to hold it.
func (g *Group) HurtAt() wire.Index {
	if g.seldom == nil {
		return 0
	}
	return g.seldom.hurtAt
}

// woundedSnapshot looks at a snapshot that the leader offers a wounded replica.
func (g *Group) woundedSnapshot(m *wire.Message) {
	if m.Index >= g.commit && g.upToDate(m.Index, m.LogTerm) {
		g.mutable().offer = &SnapshotOffer{
			From: m.From, Term: m.Term, Index: m.Index, LogTerm: m.LogTerm, Context: m.Context, Data: m.Entries,
		}
	}
}
