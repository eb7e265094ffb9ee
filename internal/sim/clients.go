package sim

import (
	"errors"
	"time"

	"multiraft/engine"
)

// client proposes commands and reads, a burst at a time, to where it believes
// the leaders to be. It waits for the answers of a burst, but not for ever.
type client struct {
	at    int
	turn  uint32 // counts bursts
	open  int    // operations of this burst without an answer
	guess []int  // site of each group's leader
}

type opState uint8

const (
	opWaiting opState = iota + 1
	opDone            // it had its effect, and the answer was right
	opRefused         // it has no effect and never will have
	opUnknown         // it may have had its effect, or may have it any time later
)

// op is one operation of a client: a write or a read.
type op struct {
	id      uint64
	group   int
	read    bool
	client  *client // nil for probes of the calm
	turn    uint32
	site    int    // that it was given to
	life    uint32 // of that site
	stale   bool   // a read whose answer may be old
	aged    bool   // whose age is known:
	old     time.Duration
	state   opState
	floor   int // how many commands were acknowledged or seen before it began
	at      int // place of the command in the history, -1 for none
	began   int64
	ended   int64 // zero while it may yet take effect
	length  int   // of the history, as the answer has it
	digest  uint64
	err     error
	pending engine.Pending
}

func newClient(c *cluster, at int) *client {
	cl := &client{at: at, guess: make([]int, len(c.shape.members))}
	for g := range cl.guess {
		cl.guess[g] = c.memberSite(g)
	}
	return cl
}

// memberSite returns the site of one of a group's members, or, when members come
// and go, of one of its replicas, if one can be found.
func (c *cluster) memberSite(g int) int {
	if c.shape.changes > 0 {
		site := c.clientRandom.IntN(len(c.sites))
		for range c.sites {
			if s := c.sites[site]; s.store != nil && s.groups[g] != nil {
				return site
			}
			site = (site + 1) % len(c.sites)
		}
	}
	members := c.shape.members[g]
	return siteOf(members[c.clientRandom.IntN(len(members))].Store)
}

// act begins the next burst of a client, whether or not the last one was
// answered.
func (c *cluster) act(cl *client) {
	if c.calm {
		return
	}
	r := c.clientRandom
	cl.turn++
	cl.open = 0
	g := r.IntN(len(c.shape.members))
	var b *batched
	if r.chance(c.shape.batches) {
		b = &batched{}
	}
	for range 1 + r.IntN(c.shape.burst) {
		if r.chance(0.3) {
			g = r.IntN(len(c.shape.members))
		}
		c.submit(cl, g, r.chance(c.shape.reads), b)
	}
	if b != nil && b.site != nil {
		c.propose(b)
	}
	wait := r.between(time.Second, 4*time.Second) // for answers
	if cl.open == 0 {
		wait = r.around(c.shape.think)
	}
	c.wake(cl, wait)
}

// wake lets a client act later, unless it has acted by then.
func (c *cluster) wake(cl *client, wait time.Duration) {
	c.agenda.add(event{at: c.now + wait, kind: eventClient, arg: int32(cl.at), life: cl.turn})
}

// submit gives one operation to a store.
// Writes join the batch if there is one and it is for the same store.
func (c *cluster) submit(cl *client, g int, read bool, b *batched) {
	r := c.clientRandom
	site := cl.guess[g]
	if r.chance(0.05) || read && r.chance(0.5) {
		site = c.memberSite(g)
	}
	s := c.sites[site]
	if s.store == nil || s.paused || s.groups[g] == nil {
		cl.guess[g] = c.memberSite(g)
		return
	}
	o := c.newOp(g, site, read)
	o.client, o.turn = cl, cl.turn
	switch {
	case read:
		c.read(o)
	case b != nil && (b.site == nil || b.site == s):
		c.gather(b, s, o, r.IntN(c.shape.command+1))
	default:
		c.write(o, r.IntN(c.shape.command+1))
	}
	if o.state == opWaiting {
		cl.open++
	}
}

// readHere reads all groups that a store believes to lead.
func (c *cluster) readHere(s *site) {
	for g := range s.groups {
		if s.groups[g] != nil && s.groups[g].IsLeader() {
			c.read(c.newOp(g, s.at, true))
		}
	}
}

// maxDuels bounds the groups of one round of duels.
const maxDuels = 3

// duels lets clients of groups with more than one replica that believes to lead
// write where the newest one is and read from all: what a leader says that has not
// heard of its successor is what rounds and leases are for.
func (c *cluster) duels() {
	c.later(max(5*time.Millisecond, c.shape.tick/2), func() {
		if c.calm {
			return
		}
		fought := 0
		first := c.clientRandom.IntN(len(c.shape.members))
		for i := range c.shape.members {
			g := (first + i) % len(c.shape.members)
			var believe []*site
			for _, s := range c.sites {
				if s.store != nil && !s.paused && s.groups[g] != nil && s.groups[g].IsLeader() {
					believe = append(believe, s)
				}
			}
			if len(believe) < 2 {
				continue
			}
			if fought++; fought > maxDuels {
				break
			}
			c.count(duels)
			newest, _ := c.leading(g)
			c.write(c.newOp(g, newest.at, false), 0)
			for _, s := range believe {
				c.read(c.newOp(g, s.at, true))
			}
		}
		c.duels()
	})
}

func (c *cluster) newOp(g, site int, read bool) *op {
	o := &op{id: uint64(len(c.ops)), group: g, read: read, site: site, life: c.sites[site].life,
		state: opWaiting, floor: c.check.groups[g].floor, at: -1, began: c.moment()}
	c.ops = append(c.ops, o)
	return o
}

// write proposes the command of an operation.
func (c *cluster) write(o *op, filler int) {
	s := c.sites[o.site]
	tooLarge := c.clientRandom.chance(0.005)
	if tooLarge {
		filler = maxCommandBytes + c.clientRandom.IntN(maxCommandBytes)
	}
	c.command = encodeCommand(c.command, o.id, o.group, filler)
	o.digest = commandSum(c.command)
	o.pending.Tag = o.id
	o.pending.Init(c)
	err := s.groups[o.group].ProposeAsync(c.command, &o.pending)
	c.trace.mix(o.id<<1 | uint64(b2i(err != nil)))
	s.poke()
	if err == nil {
		return
	}
	var large *engine.CommandTooLargeError
	if errors.As(err, &large) != tooLarge {
		c.check.fail(ruleErrors, "group %d: store %d answers a command of %d bytes with: %v", groupID(o.group), o.site+1, len(c.command), err)
	}
	if tooLarge {
		c.count(writesTooLarge)
	}
	// On an error nothing was queued, whatever the error.
	c.end(o, opRefused, err)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// read asks a replica for its state.
func (c *cluster) read(o *op) {
	s := c.sites[o.site]
	if c.plan.Plant == PlantLocalReads {
		c.answered(o, s.machines[o.group].state, nil)
		return
	}
	err := c.readAs(o, s)
	c.trace.mix(o.id<<1 | uint64(b2i(err != nil)))
	s.poke()
	if err != nil {
		c.end(o, opRefused, err)
	}
}

// readAs asks in one of the ways in which a client may.
func (c *cluster) readAs(o *op, s *site) error {
	r, g := c.clientRandom, s.groups[o.group]
	if !r.chance(c.background(c.shape.stale)) {
		return g.ReadAsync(o.id, func(value any, err error) { c.answered(o, value, err) })
	}
	o.stale = true
	if r.chance(0.3) {
		return g.ReadLocalAsync(o.id, func(value any, told engine.Staleness, err error) {
			o.old, o.aged = told.Age, told.Known
			c.answered(o, value, err)
		})
	}
	most := r.around(time.Second)
	return g.ReadStaleAsync(o.id, most, func(value any, age time.Duration, err error) {
		o.old, o.aged = age, true
		if err == nil && age > most {
			// No state was young enough, so an index was asked for after the read came,
			// and getting it took longer than that: this is as good as a read.
			c.count(readsStaleConfirmed)
			o.stale = false
		}
		c.answered(o, value, err)
	})
}

// answered is told the outcome of a read.
func (c *cluster) answered(o *op, value any, err error) {
	s := c.sites[o.site]
	if s.volume.crashed {
		return // it died with the store that would have told it
	}
	if o.state != opWaiting || o.life != s.life {
		c.check.fail(ruleAnswers, "group %d: read %d on store %d is answered again", groupID(o.group), o.id, o.site+1)
		return
	}
	if err != nil {
		c.end(o, opRefused, err)
		return
	}
	state, ok := value.(machineState)
	if !ok {
		c.check.fail(ruleReads, "group %d: read %d on store %d is answered with %T", groupID(o.group), o.id, o.site+1, value)
		return
	}
	c.trace.mix(state.chain)
	if o.stale {
		c.check.readOld(o, state)
	} else {
		c.check.read(o, state)
	}
	o.length, o.digest = state.count, state.chain
	c.end(o, opDone, nil)
}

// ProposalsDone is told the outcome of proposals, on whatever store.
func (c *cluster) ProposalsDone(done []*engine.Pending) {
	for _, p := range done {
		o := c.ops[p.Tag]
		s := c.sites[o.site]
		if s.volume.crashed {
			continue
		}
		if p != &o.pending || o.state != opWaiting || o.life != s.life {
			c.check.fail(ruleAnswers, "group %d: proposal %d on store %d is answered again", groupID(o.group), o.id, o.site+1)
			return
		}
		result, err := p.Result()
		c.trace.mix(result.Value)
		if err != nil {
			c.end(o, outcome(err), err)
		} else {
			c.check.acknowledged(o, result)
			o.length = int(result.Value)
			c.end(o, opDone, nil)
		}
	}
}

// outcome says what an error means for a proposal that was queued.
func outcome(err error) opState {
	var notLeader *engine.NotLeaderError
	switch {
	case errors.As(err, &notLeader), errors.Is(err, engine.ErrBusy), errors.Is(err, engine.ErrProposalDropped), errors.Is(err, engine.ErrTransferring):
		return opRefused
	}
	return opUnknown
}

// expected tells whether a client may see err in a cluster whose only faults are
// the simulator's.
func expected(err error) bool {
	var (
		notLeader   *engine.NotLeaderError
		tooLarge    *engine.CommandTooLargeError
		storeFailed *engine.StoreFailedError
		removed     *engine.ReplicaRemovedError
	)
	for _, known := range []error{engine.ErrBusy, engine.ErrProposalDropped, engine.ErrLeadershipLost, engine.ErrNoLeader, engine.ErrClosed,
		engine.ErrTransferring, engine.ErrGroupStopped, engine.ErrNoAnswer} {
		if errors.Is(err, known) {
			return true
		}
	}
	return errors.As(err, &notLeader) || errors.As(err, &tooLarge) || errors.As(err, &storeFailed) || errors.As(err, &removed)
}

// end notes what became of an operation and lets its client go on.
func (c *cluster) end(o *op, state opState, err error) {
	o.state, o.err = state, err
	if state == opDone {
		o.ended = c.moment()
	}
	if c.trace.on() {
		c.note("op %d of group %d on store %d (read %v): %v", o.id, groupID(o.group), o.site+1, o.read, err)
	}
	c.countEnd(o)
	if err != nil && !expected(err) && !c.sites[o.site].excuses(err) {
		c.check.fail(ruleErrors, "group %d: operation %d on store %d ends with: %v", groupID(o.group), o.id, o.site+1, err)
	}
	if state == opRefused && o.at >= 0 {
		c.check.fail(ruleWrites, "group %d: operation %d is refused with %v, but was applied", groupID(o.group), o.id, err)
	}
	cl := o.client
	if cl == nil {
		return // a probe; whoever polls sees it
	}
	var notLeader *engine.NotLeaderError
	if errors.As(err, &notLeader) && notLeader.Store != 0 {
		cl.guess[o.group] = siteOf(notLeader.Store)
	} else if err != nil {
		cl.guess[o.group] = c.memberSite(o.group)
	}
	if o.turn != cl.turn || cl.open == 0 {
		return
	}
	if cl.open--; cl.open == 0 {
		cl.turn++
		c.wake(cl, c.clientRandom.around(c.shape.think))
	}
}

func (c *cluster) countEnd(o *op) {
	switch {
	case o.read && o.state == opDone && o.stale:
		c.count(readsStale)
		if !o.aged {
			c.count(readsUnaged)
		}
	case o.read && o.state == opDone:
		c.count(readsAnswered)
	case o.read:
		c.count(readsFailed)
	case o.state == opDone:
		c.count(writesAcknowledged)
	case o.state == opRefused:
		c.count(writesRefused)
	default:
		c.count(writesUnknown)
	}
}
