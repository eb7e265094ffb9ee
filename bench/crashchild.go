package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"multiraft/engine"
)

// crashRequest is what a child of [Crash] is told, as one line of JSON.
type crashRequest struct {
	Config Config `json:"config"`
	// Sequence is the first sequence number to use in every group.
	Sequence uint64 `json:"sequence"`
}

// CrashChild is the child's side of [Crash]: it opens the stores that the
// request on in names, writes the states of their machines to out, and then
// puts load on them and writes acknowledgements to out, until it is killed or
// in ends, because the parent is dead.
func CrashChild(in io.Reader, out io.Writer) error {
	input := bufio.NewReader(in)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	var request crashRequest
	if err := json.Unmarshal(line, &request); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if err := request.Config.Validate(); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		// Nothing else ever comes; whatever the end is, it is the parent's.
		_, _ = io.Copy(io.Discard, input)
		cancel(ErrInterrupted)
	}()
	return runCrashChild(ctx, cancel, &request, &pipeWriter{out: out})
}

func runCrashChild(ctx context.Context, cancel context.CancelCauseFunc, request *crashRequest, w *pipeWriter) (err error) {
	cfg := &request.Config
	silent := func(Update) {}
	c, err := openCluster(ctx, cfg, cfg.Dir, silent)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.waitLeaders(ctx, silent); err != nil {
		return err
	}
	if err := sendStates(ctx, c, w); err != nil {
		return err
	}
	l := newLoad(cfg, c)
	l.ceiling = &ceiling{pipe: w, failed: cancel}
	l.ceiling.value.Store(request.Sequence)
	for i := range l.sequences {
		l.sequences[i].Store(request.Sequence)
	}
	for _, r := range l.recorders {
		r.acked = nil // the parent keeps these
	}
	var writers sync.WaitGroup
	for _, part := range l.parts {
		p := part.(*asyncPart) // crashes are only of async writes
		p.acks = newAckWriter(p, w, cancel)
		writers.Go(func() { p.acks.run(ctx) })
	}
	l.start(ctx)
	<-ctx.Done()
	l.stop(0)
	writers.Wait()
	return context.Cause(ctx)
}

// sendStates waits until replicas have caught up and sends what they hold.
func sendStates(ctx context.Context, c *cluster, w *pipeWriter) error {
	var found findings
	if err := c.settle(ctx, func(Update) {}, &found); err != nil {
		return err
	}
	var buf []byte
	for _, d := range found.first {
		body, err := json.Marshal(d)
		if err != nil {
			return err
		}
		buf = append(newRecord(buf), body...)
		if err := w.write(recordDifference, buf); err != nil {
			return err
		}
	}
	for place := range c.cfg.Groups {
		for _, s := range c.states(place) {
			buf = appendState(newRecord(buf), place, &s)
			if err := w.write(recordState, buf); err != nil {
				return err
			}
		}
	}
	return w.write(recordStatesEnd, newRecord(buf))
}

// ceiling tells the parent which sequence numbers may be in use before they
// are. A child that is killed takes with it which writes were on their way, and
// the next one must not use their numbers again: they may yet be applied.
type ceiling struct {
	pipe   *pipeWriter
	failed context.CancelCauseFunc
	value  atomic.Uint64 // numbers below it may be used; raised after the record is written

	mu sync.Mutex // serializes raise
}

// ceilingStep keeps raising rare and the gap in the bitmaps after a kill small.
const ceilingStep = 4096

// raise makes sequence usable. It returns false when the parent cannot be told.
func (c *ceiling) raise(sequence uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sequence < c.value.Load() {
		return true // another generator was here
	}
	next := sequence + ceilingStep
	if err := c.pipe.write(recordCeiling, binary.LittleEndian.AppendUint64(newRecord(nil), next)); err != nil {
		c.failed(err)
		return false
	}
	c.value.Store(next)
	return true
}

// ackWriter passes acknowledgements of one generator on to the parent. Slots
// become free when that is done, so a slow pipe slows the load and nothing
// piles up.
type ackWriter struct {
	part   *asyncPart
	pipe   *pipeWriter
	failed context.CancelCauseFunc

	mu   sync.Mutex
	ids  []uint32 // acknowledged slots
	wake chan struct{}
}

func newAckWriter(p *asyncPart, w *pipeWriter, failed context.CancelCauseFunc) *ackWriter {
	return &ackWriter{part: p, pipe: w, failed: failed, wake: make(chan struct{}, 1)}
}

// done takes completed writes over from ProposalsDone.
func (a *ackWriter) done(done []*engine.Pending) {
	a.mu.Lock()
	for _, pending := range done {
		if _, err := pending.Result(); err != nil {
			a.part.free.put(uint32(pending.Tag))
			continue
		}
		a.ids = append(a.ids, uint32(pending.Tag))
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends.
func (a *ackWriter) run(ctx context.Context) {
	var ids []uint32
	var buf []byte
	for {
		a.mu.Lock()
		ids, a.ids = a.ids, ids[:0]
		a.mu.Unlock()
		if len(ids) == 0 {
			select {
			case <-a.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		buf = newRecord(buf)
		for _, id := range ids {
			s := &a.part.slots[id]
			buf = appendAck(buf, s.group, s.sequence)
		}
		if err := a.pipe.write(recordAcks, buf); err != nil {
			a.failed(err)
			return
		}
		a.part.free.put(ids...)
	}
}
