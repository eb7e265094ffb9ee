//go:build linux

package faulttest

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"multiraft/engine"
	"multiraft/raftlog"
	"multiraft/wire"
)

// cluster id of all children.
const clusterID = 0xfa17

// RunChild is the child's side: it opens the store, answers requests from in
// until in ends, and closes the store. Answers go to out, what an operator would
// see to standard error.
func RunChild(cfg ChildConfig, in io.Reader, out io.Writer) error {
	c := &child{answers: newSender(out), groups: make(map[wire.GroupID]*engine.Group)}
	err := c.open(cfg)
	if err != nil {
		return errors.Join(err, c.answers.send(Response{Outcome: Refused, Text: err.Error()}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	err = c.answers.send(Response{Outcome: Done, Value: uint64(os.Getpid()), Text: c.store.Addr()})
	if err == nil {
		err = c.serve(ctx, cfg, gob.NewDecoder(in))
	}
	cancel()
	err = errors.Join(err, c.store.Close())
	c.calls.Wait()
	return err
}

// child is one store and the requests it works on.
type child struct {
	answers *sender
	store   *engine.Store
	groups  map[wire.GroupID]*engine.Group
	calls   sync.WaitGroup
}

func (c *child) open(cfg ChildConfig) error {
	encoder := zapcore.NewConsoleEncoder(zap.NewProductionEncoderConfig())
	var err error
	c.store, err = engine.Open(engine.Config{
		Cluster: clusterID, ID: cfg.Store, Dir: cfg.Dir, Listen: cfg.Listen, Peers: cfg.Peers,
		SegmentBytes: cfg.SegmentBytes, MaxCommandBytes: 16 << 10, TickInterval: cfg.Tick,
		SnapshotEntries: cfg.SnapshotEntries, KeepEntries: max(1, cfg.SnapshotEntries/4), SnapshotChunkBytes: 4 << 10,
		Logger: zap.New(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), zap.InfoLevel)),
	})
	if err != nil {
		return err
	}
	var members []engine.Member
	for _, s := range cfg.Members {
		members = append(members, engine.Member{Replica: wire.ReplicaID(s), Store: s})
	}
	for id := wire.GroupID(1); id <= wire.GroupID(cfg.Groups); id++ {
		c.groups[id], err = c.store.StartGroup(context.Background(), engine.GroupConfig{ID: id, Members: members, StateMachine: newMachine()})
		if err != nil && !damaged(err) {
			return errors.Join(err, c.store.Close())
		}
	}
	return nil
}

// serve answers requests until there are no more. Each has a goroutine, which
// ends with its time-out at the latest.
func (c *child) serve(ctx context.Context, cfg ChildConfig, requests *gob.Decoder) error {
	for {
		var q Request
		if err := requests.Decode(&q); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("request: %w", err)
		}
		c.calls.Add(1)
		go func() {
			defer c.calls.Done()
			ctx, cancel := context.WithTimeout(ctx, q.Timeout)
			defer cancel()
			answer := c.answer(ctx, cfg, &q)
			answer.ID = q.ID
			// A parent that is gone has closed the other pipe too.
			_ = c.answers.send(answer)
		}()
	}
}

func (c *child) answer(ctx context.Context, cfg ChildConfig, q *Request) Response {
	if q.Op == opHealth {
		return c.health()
	}
	g := c.groups[q.Group]
	if g == nil {
		return Response{Outcome: Refused, Text: fmt.Sprintf("group %d does not run", q.Group)}
	}
	var (
		a     = Response{Outcome: Done}
		value any
		err   error
	)
	switch q.Op {
	case opWrite:
		_, err = g.Propose(ctx, encodeCommand(q.Key, q.Value, int(q.Value*2654435761%uint64(cfg.Filler+1))))
	case opRead:
		if value, err = g.Read(ctx, q.Key); err == nil {
			a.Value = value.(uint64)
		}
	case opState:
		if value, err = g.Read(ctx, stateQuery{}); err == nil {
			a.State = value.(State)
		}
	case opLeader:
		err = g.WaitLeader(ctx)
	default:
		err = fmt.Errorf("no such operation: %d", q.Op)
	}
	if err != nil {
		a.Outcome, a.Text = outcome(err), err.Error()
		var notLeader *engine.NotLeaderError
		if errors.As(err, &notLeader) {
			a.Leader = notLeader.Store
		}
		a.Failed = c.store.Err() != nil
	}
	return a
}

// outcome says what an error means for a proposal. What is not known to be a
// refusal leaves it open.
func outcome(err error) Outcome {
	var notLeader *engine.NotLeaderError
	if errors.As(err, &notLeader) || errors.Is(err, engine.ErrBusy) ||
		errors.Is(err, engine.ErrProposalDropped) || errors.Is(err, engine.ErrTransferring) {
		return Refused
	}
	return Unknown
}

// health tells why the store or groups of it stopped.
func (c *child) health() Response {
	m := c.store.Metrics()
	a := Response{Outcome: Done, Made: m.SnapshotsMade, Installed: m.SnapshotsInstalled}
	if err := c.store.Err(); err != nil {
		a.Failed, a.Text = true, err.Error()
	}
	for id := wire.GroupID(1); int(id) <= len(c.groups); id++ {
		g := c.groups[id]
		if g == nil {
			a.Damage = append(a.Damage, id)
			continue
		}
		if err := g.Err(); damaged(err) {
			a.Damage = append(a.Damage, id)
		} else if err != nil && a.Text == "" {
			a.Text = err.Error()
		}
	}
	return a
}

func damaged(err error) bool {
	var corruption *raftlog.CorruptionError
	return errors.As(err, &corruption)
}
