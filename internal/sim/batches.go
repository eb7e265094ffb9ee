package sim

import (
	"context"
	"errors"

	"multiraft/engine"
)

// batched are writes to groups of one store that are proposed together.
type batched struct {
	site  *site
	batch engine.Batch
	ops   []*op
	large []bool // commands that must be refused
}

// gather adds the write of an operation to a batch for its store.
func (c *cluster) gather(b *batched, s *site, o *op, filler int) {
	tooLarge := c.clientRandom.chance(0.005)
	if tooLarge {
		filler = maxCommandBytes + c.clientRandom.IntN(maxCommandBytes)
	}
	command := encodeCommand(nil, o.id, o.group, filler)
	o.digest = commandSum(command)
	b.site, b.ops, b.large = s, append(b.ops, o), append(b.large, tooLarge)
	b.batch.Add(s.groups[o.group], command)
}

// propose gives a batch to its store.
func (c *cluster) propose(b *batched) {
	c.count(batchesProposed)
	s := b.site
	err := s.store.ProposeBatch(&b.batch)
	c.trace.mix(uint64(len(b.ops))<<1 | uint64(b2i(err != nil)))
	s.poke()
	if err != nil {
		for _, o := range b.ops {
			c.end(o, opRefused, err) // nothing was queued
		}
		return
	}
	s.batches = append(s.batches, b)
	s.lookAtBatches()
}

// lookAtBatches tells clients of the batches that are done.
func (s *site) lookAtBatches() {
	left := s.batches[:0]
	for _, b := range s.batches {
		if !s.stepper.BatchDone(&b.batch) {
			left = append(left, b)
			continue
		}
		if err := b.batch.Wait(context.Background()); err != nil {
			s.c.check.fail(ruleAnswers, "store %d: a batch that was queued ends with: %v", s.at+1, err)
		}
		for i, o := range b.ops {
			s.c.batchAnswered(o, b, i)
		}
	}
	clear(s.batches[len(left):])
	s.batches = left
}

// batchAnswered notes the result of one command of a batch.
func (c *cluster) batchAnswered(o *op, b *batched, i int) {
	result, err := b.batch.Result(i)
	c.trace.mix(result.Value)
	var large *engine.CommandTooLargeError
	tooLarge := errors.As(err, &large)
	// What is refused for other reasons is so before anybody looks at its size.
	if tooLarge && !b.large[i] || err == nil && b.large[i] {
		c.check.fail(ruleErrors, "group %d: store %d answers a command in a batch, too large %v, with: %v", groupID(o.group), o.site+1, b.large[i], err)
	}
	switch {
	case tooLarge:
		c.count(writesTooLarge)
		c.end(o, opRefused, err)
	case err != nil:
		c.end(o, outcome(err), err)
	default:
		c.check.acknowledged(o, result)
		o.length = int(result.Value)
		c.end(o, opDone, nil)
	}
}
