package sim

import "math"

// Operation is what a client did in a run, and saw. Checkers of histories that
// know nothing of raft can be given them; see [Plan.History].
//
// The object of an operation is a group, which is a list of commands. A write
// appends one, a read returns the length of the list and a digest of all that is
// in it.
type Operation struct {
	Group, Client int // a client of -1 is the simulator's own
	Read          bool
	// Began and Ended order the beginnings and ends of all operations of a run.
	// Ended is when the answer came, or, when none came, when a state machine was
	// first given the command: by then the write had taken effect.
	Began, Ended int64
	// Length of the list behind the write, or that the read returned. When a write
	// has no answer, it is the place at which state machines were given it.
	Length int
	// Digest is that of the command for a write, and of the list for a read.
	Digest uint64
}

// Extended returns the digest of a list of some length to which a command was
// appended.
func Extended(length int, digest, command uint64) uint64 {
	if length == 0 {
		return command
	}
	return chained(digest, command)
}

// moment returns the next in the order of beginnings and ends.
func (c *cluster) moment() int64 {
	c.moments++
	return c.moments
}

// tellHistory passes on what had an effect or an answer: reads that failed and
// writes that no state machine was given are nothing that happened.
func (c *cluster) tellHistory() {
	for _, o := range c.ops {
		if o.read && (o.stale || o.state != opDone) || !o.read && o.at < 0 {
			continue
		}
		told := Operation{Group: o.group, Client: -1, Read: o.read, Began: o.began, Ended: o.ended, Digest: o.digest}
		if o.client != nil {
			told.Client = o.client.at
		}
		if told.Length = o.length; !o.read && o.state != opDone {
			told.Length = o.at + 1
		}
		if told.Ended == 0 {
			told.Ended = math.MaxInt64
		}
		c.plan.History(told)
	}
}
