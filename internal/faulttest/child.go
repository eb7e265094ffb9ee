//go:build linux

package faulttest

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"multiraft/engine"
	"multiraft/raftlog"
	"multiraft/transport"
	"multiraft/wire"
)

// RunChild is the child's side: it opens the store, answers requests from in
// until in ends, and closes the store. Answers go to out, what an operator would
// see to standard error.
func RunChild(cfg ChildConfig, in io.Reader, out io.Writer) error {
	c := &child{answers: newSender(out), refused: make(map[wire.GroupID]error)}
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
	answers  *sender
	store    *engine.Store
	refused  map[wire.GroupID]error // why groups did not start; not changed once they are
	outlived atomic.Int64           // times that a peer said so
	calls    sync.WaitGroup
}

func (c *child) open(cfg ChildConfig) error {
	encoder := zapcore.NewConsoleEncoder(zap.NewProductionEncoderConfig())
	ec := engine.Config{
		Cluster: cfg.Cluster, ID: cfg.Store, Dir: cfg.Dir, Listen: cfg.Listen, Peers: cfg.Peers, DiskLost: cfg.DiskLost,
		SegmentBytes: cfg.SegmentBytes, MaxCommandBytes: 16 << 10, TickInterval: cfg.Tick,
		SnapshotEntries: cfg.SnapshotEntries, KeepEntries: max(1, cfg.SnapshotEntries/4), SnapshotChunkBytes: 4 << 10,
		MaxInflightBytes: cfg.Budget, MaxGroupInflightBytes: cfg.Budget, CacheBytes: cfg.Budget, MaxApplyBytes: cfg.Budget, MaxReceiveBytes: cfg.Budget,
		Join: func(engine.JoinRequest) (engine.GroupConfig, error) {
			return engine.GroupConfig{StateMachine: newMachine()}, nil
		},
		Events: engine.Events{Outlived: func(*engine.OutlivedError) { c.outlived.Add(1) }},
		Logger: zap.New(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), zap.InfoLevel)),
	}
	ec.Tuning.LeaseReads = cfg.Leases
	if cfg.Death != nil {
		ec.FS = newMortalFS(*cfg.Death)
	}
	if cfg.TLS != nil {
		files := transport.TLSFiles{Certificate: cfg.TLS.Certificate, Key: cfg.TLS.Key, Authorities: cfg.TLS.Authorities,
			Failed: func(err error) { fmt.Fprintln(os.Stderr, "certificate:", err) }}
		ec.TLS = files.Config
	}
	var err error
	if c.store, err = engine.Open(ec); err != nil {
		return err
	}
	if err := c.start(cfg); err != nil {
		return errors.Join(err, c.store.Close())
	}
	return nil
}

// start starts the groups that are stored, and those that begin here.
func (c *child) start(cfg ChildConfig) error {
	stored, err := c.store.Stored()
	if err != nil {
		return err
	}
	ids := make(map[wire.GroupID]bool)
	for i := range stored {
		ids[stored[i].ID] = true
	}
	var members []engine.Member
	for _, s := range cfg.Members {
		members = append(members, engine.Member{Replica: wire.ReplicaID(s), Store: s})
	}
	begins := slices.Contains(cfg.Members, cfg.Store) && !cfg.JoinOnly
	for id := wire.GroupID(1); id <= wire.GroupID(cfg.Groups); id++ {
		gc := engine.GroupConfig{ID: id, StateMachine: newMachine()}
		if begins {
			gc.Members = members
		} else if !ids[id] {
			continue
		}
		_, err := c.store.StartGroup(context.Background(), gc)
		var removed *engine.ReplicaRemovedError
		switch {
		case damaged(err), barred(err):
			c.refused[id] = err // another replica may come in its place
		case errors.As(err, &removed), errors.Is(err, engine.ErrGroupExists): // joined meanwhile
		case err != nil:
			return err
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
	switch q.Op {
	case opHealth:
		return c.health(cfg)
	case opHog:
		hog()
	}
	g, ok := c.store.Group(q.Group)
	if !ok {
		return Response{Outcome: Refused, Text: fmt.Sprintf("group %d does not run here", q.Group)}
	}
	var (
		a     = Response{Outcome: Done}
		value any
		err   error
	)
	switch q.Op {
	case opWrite:
		var result engine.Result
		result, err = g.Propose(ctx, encodeCommand(q.Key, q.Value, q.Again, int(q.Value*2654435761%uint64(cfg.Filler+1))))
		a.Value = result.Value
	case opRead:
		if value, err = g.Read(ctx, q.Key); err == nil {
			a.Value = value.(uint64)
		}
	case opState:
		if value, err = g.Read(ctx, stateQuery{}); err == nil {
			a.State = value.(State)
		}
	case opMissing:
		if value, err = g.Read(ctx, missingQuery(q.Values)); err == nil {
			a.Values = value.([]uint64)
		}
	case opMembers, opAdd, opRemove, opReplace:
		a.Members, err = change(ctx, g, q)
	case opTransfer:
		err = g.TransferLeader(ctx, replicaOn(g, q.Store))
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

// change takes a group to the membership that is asked for, and returns its voters.
// It may be repeated.
func change(ctx context.Context, g *engine.Group, q *Request) (voters []wire.StoreID, err error) {
	// A replica that has just answered a read has applied every change that anybody
	// was told of.
	if _, err := g.Read(ctx, stateQuery{}); err != nil {
		return nil, err
	}
	switch old, on := replicaOn(g, q.Old), replicaOn(g, q.Store); {
	case q.Op == opAdd, q.Op == opReplace && old == 0:
		_, err = g.AddReplica(ctx, engine.Member{Store: q.Store})
	case q.Op == opReplace:
		_, err = g.ReplaceReplica(ctx, old, engine.Member{Store: q.Store})
	case q.Op == opRemove && on != 0:
		err = g.RemoveReplica(ctx, on)
	}
	for _, m := range g.Membership().Members {
		if m.Role == wire.Voter {
			voters = append(voters, m.Store)
		}
	}
	return voters, err
}

// replicaOn returns the member of a group on a store, zero when there is none.
func replicaOn(g *engine.Group, store wire.StoreID) wire.ReplicaID {
	for _, m := range g.Membership().Members {
		if m.Store == store {
			return m.Replica
		}
	}
	return 0
}

// hog takes memory until the kernel ends the process.
func hog() {
	var held [][]byte
	for {
		piece := make([]byte, mib)
		for at := 0; at < len(piece); at += pageBytes {
			piece[at] = 1
		}
		held = append(held, piece)
		runtime.KeepAlive(held)
	}
}

// health tells how the store is, and why it or groups of it stopped.
func (c *child) health(cfg ChildConfig) Response {
	m := c.store.Metrics()
	a := Response{Outcome: Done, Health: Health{
		Leading: int(m.Leading), Made: m.SnapshotsMade, Installed: m.SnapshotsInstalled, Elections: m.Elections,
		Joined: m.JoinedReplicas, Removed: m.RemovedReplicas, Refused: m.RefusedConnections, LeaseReads: m.LeaseReads, Fitness: c.store.Fitness().String(),
		Damaged: m.DamagedReplicas, Healed: m.HealedReplicas, Replaced: m.ReplacedLost, Repairing: m.Repairing, Outlived: c.outlived.Load()}}
	if err := c.store.Err(); err != nil {
		a.Failed, a.Text = true, err.Error()
	}
	h := &a.Health
	for id := wire.GroupID(1); int(id) <= cfg.Groups; id++ {
		g, ok := c.store.Group(id)
		err := c.refused[id]
		if ok {
			st := g.Status()
			if err = st.Err; err == nil {
				err = st.Repairing
			}
			h.Hosted++
			h.First += st.First
			h.Applied += st.Applied
			if st.Leader.Replica != 0 {
				h.Led++
			}
		}
		switch {
		case damaged(err):
			h.Damage = append(h.Damage, id)
		case barred(err):
			h.Barred = append(h.Barred, id)
		case err != nil:
			if h.Stopped++; a.Text == "" {
				a.Text = err.Error()
			}
		}
	}
	return a
}

func damaged(err error) bool {
	var (
		corruption *raftlog.CorruptionError
		snapshot   *engine.SnapshotError
		lost       *engine.ReplicaLostError
		repairing  *engine.RepairingError
	)
	return errors.As(err, &corruption) || errors.As(err, &snapshot) || errors.As(err, &lost) || errors.As(err, &repairing)
}

func barred(err error) bool {
	var e *engine.BarredError
	return errors.As(err, &e)
}
