package wire

// GroupID names a raft group, the same on all stores. Zero is no group.
type GroupID uint64

// StoreID names a store in a cluster. Zero is no store.
type StoreID uint64

// ReplicaID names a member of a group. It is never used twice in a group.
// Zero is no replica.
type ReplicaID uint64

// Term is a raft term (thesis, section 3.3). Zero is before the first election.
type Term uint64

// Index is the place of an entry in the log of its group. The first entry has
// index 1; zero is before the first entry.
type Index uint64
