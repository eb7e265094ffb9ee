package engine

import (
	"errors"
	"fmt"
	"time"

	"multiraft/raftlog"
	"multiraft/wire"
)

// Stepper runs a store without goroutines: who drives it decides when each part
// takes its next step, and so can run whole clusters on one goroutine, with
// virtual time, from one seed. The store behaves the same as one from Open as
// long as every step that has something to do is taken some time.
//
// All methods must be called from one goroutine. Propose, Read, StopGroup and
// Batch.Wait block until steps were taken, so a driver uses ProposeAsync and
// ReadAsync.
type Stepper struct {
	store *Store
	clock *steppedClock
}

// OpenStepped opens a store like Open, but starts nothing: not the ticker, not
// the log writer, not the workers. Config.Transport and Config.Seed must be
// given; Config.FS decides what is durable.
func OpenStepped(cfg Config) (*Store, *Stepper, error) {
	if cfg.Transport == nil {
		return nil, nil, &ConfigError{Field: "Transport", Value: "nil", Rule: "must be given to a stepped store"}
	}
	if cfg.Seed == 0 {
		return nil, nil, &ConfigError{Field: "Seed", Value: 0, Rule: "must be given to a stepped store"}
	}
	clock := new(steppedClock)
	if cfg.Clock == nil {
		cfg.Clock = clock
	}
	s, err := open(cfg, true)
	if err != nil {
		return nil, nil, err
	}
	if err := s.transport.Start(transportHandler{s}); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("store %d: start transport: %w", cfg.ID, err), s.log.Close())
	}
	return s, &Stepper{store: s, clock: clock}, nil
}

// Work says which parts of a store have something to do.
type Work struct {
	// Workers and Appliers have a bit for each, by its number.
	Workers, Appliers uint64
	Log, Maintain     bool
	Events, Join      bool
	Snapshots         bool
}

// Any says whether any part has something to do.
func (w Work) Any() bool {
	return w.Workers|w.Appliers != 0 || w.Log || w.Maintain || w.Events || w.Join || w.Snapshots
}

// Woken returns which parts would have been woken since the last call if each
// had a goroutine, as those of a store from Open have: a part goes on until its
// step returns false, and then waits to be woken. A driver that steps only woken
// parts thereby shows that none has to be asked for nothing. Workers count for as
// long as something stands in their queue; the first 64 of them, and of the
// appliers, are told.
func (d *Stepper) Woken() Work {
	var w Work
	for at := range min(64, len(d.store.workers)) {
		if d.store.sched.Waiting(at) > 0 {
			w.Workers |= 1 << at
		}
	}
	for at, a := range d.store.appliers[:min(64, len(d.store.appliers))] {
		select {
		case <-a.wake:
			w.Appliers |= 1 << at
		default:
		}
	}
	w.Log, w.Maintain = d.store.log.Woken()
	select {
	case <-d.store.events.wake:
		w.Events = true
	default:
	}
	select {
	case <-d.store.joins.wake:
		w.Join = true
	default:
	}
	select {
	case <-d.store.snaps.wake:
		w.Snapshots = true
	default:
	}
	return w
}

// Stored returns what the log of the store has durable of a group.
func (d *Stepper) Stored(id wire.GroupID) *raftlog.Group { return d.store.log.Group(id) }

// Incarnation returns which life of its disk the store is in, as its hellos say.
func (d *Stepper) Incarnation() uint64 { return d.store.log.Identity().Incarnation }

// Outlived tells the store that a peer has met a later life of it, as the transport
// does whose connection was refused for that. It returns the life that the store is
// in from then on, see Config.DiskLost.
func (d *Stepper) Outlived(peer wire.StoreID, met uint64) uint64 { return d.store.outlived(peer, met) }

// BatchDone tells whether every command of a batch that was given to ProposeBatch
// has its result, so that Wait does not block.
func (d *Stepper) BatchDone(b *Batch) bool { return b.left.Load() == 0 }

// Tick advances logical time by one, and the store's clock by a TickInterval if
// Config.Clock was not given.
func (d *Stepper) Tick() {
	d.clock.advance(d.store.cfg.TickInterval)
	d.store.tick()
}

// Pause advances the store's clock without its ticker, as when the process stands
// still. It has no effect on a Config.Clock that was given.
func (d *Stepper) Pause(time time.Duration) { d.clock.advance(time) }

// Workers returns how many workers there are.
func (d *Stepper) Workers() int { return len(d.store.workers) }

// Worker runs one round of a worker. It returns false when there was nothing to
// run.
func (d *Stepper) Worker(at int) bool { return d.store.sched.Step(at) }

// Appliers returns how many appliers there are.
func (d *Stepper) Appliers() int { return len(d.store.appliers) }

// Applier does what is queued for an applier. It returns false when there was
// nothing.
func (d *Stepper) Applier(at int) bool { return d.store.appliers[at].step() }

// BeginLog has the next Log take what is queued now, and leave what comes until
// then, as a log whose sync is under way does.
func (d *Stepper) BeginLog() { d.store.log.Begin() }

// Log writes and syncs what is queued for the log. It returns false when there
// was nothing.
func (d *Stepper) Log() bool { return d.store.log.Step() }

// Events does what is queued for the event loop: it calls what [Config.Events]
// names, and lets go of removed replicas. It returns false when there was
// nothing.
func (d *Stepper) Events() bool { return d.store.eventStep() }

// Join starts one replica that was added here. It returns false when there was
// none.
func (d *Stepper) Join() bool { return d.store.joinStep() }

// Snapshots does one piece of what there is to do with snapshots. It returns
// false when there was nothing.
func (d *Stepper) Snapshots() bool { return d.store.snaps.step() }

// Maintain does one piece of the log's background work. It returns false when
// there was nothing.
func (d *Stepper) Maintain() bool { return d.store.log.Maintain() }

// TransferLeader asks for a leadership as Group.TransferLeader does, and does not
// wait: who leads shows how it went.
func (d *Stepper) TransferLeader(g *Group, to wire.ReplicaID) error {
	return g.replica.enqueueTransfer(transfer{order: orderTransfer, to: to, done: make(chan error, 1)})
}

// Campaign asks a replica to stand for election as Group.Campaign does, and does not
// wait: who leads shows how it went.
func (d *Stepper) Campaign(g *Group) error {
	return g.replica.enqueueTransfer(transfer{order: orderCampaign, to: g.replica.self, done: make(chan error, 1)})
}

// StopGroup stops a group as Store.StopGroup does, and does not wait. It returns
// true when the group has stopped; until then, steps have to be taken and StopGroup
// called again.
func (d *Stepper) StopGroup(id wire.GroupID) bool {
	s := d.store
	s.mu.Lock()
	r := s.groups[id]
	s.mu.Unlock()
	if r == nil {
		return true
	}
	r.close()
	s.sched.Set(r.slot, flagControl)
	for _, end := range []chan struct{}{r.apply.ended, r.logged} {
		select {
		case <-end:
		default:
			return false
		}
	}
	s.letGo(r)
	return true
}

// HandOver has all leaders of the store hand over from now on, as Store.Close does
// first, and does not wait: who leads shows how it went.
func (d *Stepper) HandOver() { d.store.beginHandOver() }

// Close stops the store in good order, taking the steps that this needs. A
// driver that wants a crash drops the store instead and opens its files again.
func (d *Stepper) Close() error {
	s := d.store
	if !s.closing.CompareAndSwap(false, true) {
		return s.result
	}
	s.stopAll()
	for again := true; again; {
		again = false
		for at := range s.workers {
			again = d.Worker(at) || again
		}
		again = d.Log() || again
		for at := range s.appliers {
			again = d.Applier(at) || again
		}
		again = d.Events() || again
		again = d.Snapshots() || again
	}
	s.snaps.close()
	close(s.stopped)
	err := s.transport.Close()
	if closeErr := s.sched.Close(); err == nil {
		err = closeErr
	}
	if closeErr := s.log.Close(); err == nil {
		err = closeErr
	}
	s.result = err
	close(s.closed)
	return err
}
