package engine

// Budgets returns what is taken from each budget of the store, and how many
// groups wait for the appliers.
func (s *Store) Budgets() (inflight, receive, apply, cached int64, held int) {
	s.heldMu.Lock()
	defer s.heldMu.Unlock()
	return s.inflightBytes.Load(), s.receiveBytes.Load(), s.applyBytes.Load(), s.cachedBytes.Load(), len(s.held)
}

// Joins tells whether the replica of a group is in no membership that it knows of.
func (g *Group) Joins() bool {
	g.replica.turnMu.Lock()
	defer g.replica.turnMu.Unlock()
	return g.replica.joining
}
