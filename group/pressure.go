package group

import "multiraft/wire"

// TailBytes returns the size of the blocks kept in memory.
//
//mr:hotpath
func (g *Group) TailBytes() int { return g.log.bytes }

// ReleaseTail lets go of every block that can be read back from storage: what
// is durable, committed and handed to the state machine. Peers that are behind
// are then served from storage. A host calls it when all its groups together
// keep too much.
//
//mr:hotpath
func (g *Group) ReleaseTail() {
	if g.fault == nil && len(g.log.refs) > 0 {
		g.log.release(min(g.log.durable, g.commit, g.handed.last), 0)
	}
}

// HardState returns term, vote and commit as they are now, durable or not. The
// commit index is one of durable entries.
func (g *Group) HardState() wire.HardState {
	return wire.HardState{Term: g.term, Vote: g.vote, Commit: min(g.commit, g.log.durable)}
}
