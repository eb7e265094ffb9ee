package recovery

import (
	"slices"

	"multiraft/wire"
)

// hasQuorum says whether those that are in can decide for a membership: they are a
// majority of its voters, and of those of the other half if it is joint.
func (m *Membership) hasQuorum(in func(wire.ReplicaID) bool) bool {
	return m.majority(in, func(m Member) bool { return m.Voter }) &&
		(!m.joint() || m.majority(in, func(m Member) bool { return m.Outgoing }))
}

func (m *Membership) majority(in func(wire.ReplicaID) bool, half func(Member) bool) bool {
	voters, have := 0, 0
	for _, member := range m.Members {
		if half(member) {
			voters++
			if in(member.Replica) {
				have++
			}
		}
	}
	return have > voters/2
}

func (m *Membership) joint() bool {
	return slices.ContainsFunc(m.Members, func(m Member) bool { return m.Outgoing })
}

func (m *Membership) find(id wire.ReplicaID) (Member, bool) {
	i := slices.IndexFunc(m.Members, func(m Member) bool { return m.Replica == id })
	if i < 0 {
		return Member{}, false
	}
	return m.Members[i], true
}
