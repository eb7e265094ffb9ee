package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"multiraft/engine"
	"multiraft/raftlog"
	"multiraft/transport"
	"multiraft/wire"
)

// cluster is the stores of one process with all their groups.
type cluster struct {
	cfg    *Config
	stores []*engine.Store
	syncs  *syncTimer
	// groups and machines are indexed by group place times Stores plus store;
	// nil where a group has no replica.
	groups   []*engine.Group
	machines []*machine
}

// clusterID is the cluster of all benchmarks. They only meet on loopback ports
// that the system picked.
const clusterID = 0x6d72_6265_6e63_68

// openCluster opens one store per directory under dir, connects them, and
// starts a replica of every group where it belongs.
func openCluster(ctx context.Context, cfg *Config, dir string, progress func(Update)) (*cluster, error) {
	c := &cluster{
		cfg:      cfg,
		syncs:    newSyncTimer(),
		stores:   make([]*engine.Store, cfg.Stores),
		groups:   make([]*engine.Group, cfg.Stores*cfg.Groups),
		machines: make([]*machine, cfg.Stores*cfg.Groups),
	}
	if err := c.open(ctx, dir, progress); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *cluster) open(ctx context.Context, dir string, progress func(Update)) error {
	var network *transport.Network
	if c.cfg.Transport == TransportMemory {
		network = transport.NewNetwork(transport.NetworkConfig{Cluster: clusterID})
	}
	var opening errgroup.Group // stores read their logs side by side
	for i := range c.stores {
		opening.Go(func() error {
			cfg := engine.Config{
				Cluster:      clusterID,
				ID:           wire.StoreID(i + 1),
				Dir:          storeDir(dir, i),
				Listen:       "127.0.0.1:0",
				FS:           timedFS{FS: raftlog.OSFS{}, timer: c.syncs},
				NoSync:       c.cfg.NoSync,
				SegmentBytes: c.cfg.SegmentBytes,

				MaxInflightBytes:      c.cfg.InflightBytes,
				MaxGroupInflightBytes: min(c.cfg.InflightBytes, maxGroupInflightBytes),
				Workers:               c.cfg.Workers,
				Appliers:              c.cfg.Appliers,
				Seed:                  c.cfg.Seed + uint64(i),

				SnapshotEntries: c.cfg.Snapshots, // not looked at when it is 0: then no machine makes any
				KeepEntries:     max(1, c.cfg.Snapshots/keepShare),
			}
			if network != nil {
				cfg.Listen, cfg.Transport = "", network.Transport(cfg.ID)
			}
			var err error
			c.stores[i], err = engine.Open(cfg)
			return err
		})
	}
	if err := opening.Wait(); err != nil {
		return err
	}
	for _, s := range c.stores {
		for _, peer := range c.stores {
			if peer == s || peer.Addr() == "" {
				continue
			}
			if err := s.SetPeer(peer.ID(), peer.Addr()); err != nil {
				return fmt.Errorf("store %d: peer %d: %w", s.ID(), peer.ID(), err)
			}
		}
	}
	return c.startGroups(ctx, progress)
}

// startGroups starts all replicas, the stores side by side.
func (c *cluster) startGroups(ctx context.Context, progress func(Update)) error {
	var started atomic.Int64
	total := c.cfg.Groups * c.cfg.Replicas
	starting, ctx := errgroup.WithContext(ctx)
	for i, s := range c.stores {
		starting.Go(func() error {
			for place := range c.cfg.Groups {
				id := groupID(place)
				members := c.cfg.members(id)
				if !holds(members, s.ID()) {
					continue
				}
				at := place*c.cfg.Stores + i
				m := newMachine(id, c.cfg.Verify)
				var applied engine.StateMachine = m
				if c.cfg.Snapshots > 0 {
					applied = snapshotMachine{m}
				}
				g, err := s.StartGroup(ctx, engine.GroupConfig{ID: id, Members: members, StateMachine: applied})
				if err != nil {
					return fmt.Errorf("store %d: start group %d: %w", s.ID(), id, err)
				}
				c.groups[at], c.machines[at] = g, m
				if n := int(started.Add(1)); n%startReportEvery == 0 || n == total {
					progress(Update{Phase: PhaseStart, What: "replicas started", Done: n, Total: total})
				}
			}
			return nil
		})
	}
	return starting.Wait()
}

const startReportEvery = 1000

// maxGroupInflightBytes is the engine's default, unless less is let in per store.
const maxGroupInflightBytes = 16 << 20

// keepShare of the entries between two snapshots stay in the log in front of one,
// as with the engine's defaults.
const keepShare = 10

func holds(members []engine.Member, store wire.StoreID) bool {
	for _, m := range members {
		if m.Store == store {
			return true
		}
	}
	return false
}

// leader returns the store that leads the group with the given place, 0 if none
// says so of itself.
func (c *cluster) leader(place int) wire.StoreID { return findLeader(c.replicas(place)) }

// replicas returns the handles of a group by store, nil where it has none.
func (c *cluster) replicas(place int) []*engine.Group {
	return c.groups[place*c.cfg.Stores : (place+1)*c.cfg.Stores]
}

// pollInterval is how often what cannot be waited for is looked at.
const pollInterval = 10 * time.Millisecond

// waitLeaders waits until every group has a leader.
func (c *cluster) waitLeaders(ctx context.Context, progress func(Update)) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.StartTimeout)
	defer cancel()
	left := make([]int, c.cfg.Groups)
	for i := range left {
		left[i] = i
	}
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		kept := left[:0]
		for _, place := range left {
			if c.leader(place) == 0 {
				kept = append(kept, place)
			}
		}
		left = kept
		with := c.cfg.Groups - len(left)
		progress(Update{Phase: PhaseStart, What: "groups with leader", Done: with, Total: c.cfg.Groups})
		if len(left) == 0 {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return &StartError{WithLeader: with, Groups: c.cfg.Groups, Err: ctx.Err()}
		}
	}
}

// leadersPerStore counts the groups that each store leads.
func (c *cluster) leadersPerStore() []int {
	counts := make([]int, c.cfg.Stores)
	for place := range c.cfg.Groups {
		if leader := c.leader(place); leader != 0 {
			counts[leader-1]++
		}
	}
	return counts
}

// settle waits until all replicas of every group have applied all that is in
// the log of their leader, and adds the groups for which that does not happen
// in time to found. Nothing may be proposed any more.
func (c *cluster) settle(ctx context.Context, progress func(Update), found *findings) error {
	deadline := time.Now().Add(c.cfg.SettleTimeout)
	left := make([]int, c.cfg.Groups)
	for i := range left {
		left[i] = i
	}
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		kept := left[:0]
		for _, place := range left {
			settled, err := c.settled(place)
			switch {
			case err != nil:
				found.add(Difference{Kind: DifferenceBehind, Group: groupID(place), Detail: err.Error()})
			case !settled:
				kept = append(kept, place)
			}
		}
		left = kept
		progress(Update{Phase: PhaseSettle, What: "groups with equal replicas", Done: c.cfg.Groups - len(left), Total: c.cfg.Groups})
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			for _, place := range left {
				found.add(Difference{Kind: DifferenceBehind, Group: groupID(place), Detail: c.describe(place)})
			}
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return ErrInterrupted
		}
	}
}

// settled tells whether all replicas of a group hold and have applied the same
// entries. err is why that will not happen.
func (c *cluster) settled(place int) (bool, error) {
	replicas := c.replicas(place)
	leader := findLeader(replicas)
	for i, g := range replicas {
		if g == nil {
			continue
		}
		if err := g.Err(); err != nil {
			return false, fmt.Errorf("store %d: %w", i+1, err)
		}
	}
	if leader == 0 {
		return false, nil
	}
	st := replicas[leader-1].Status()
	if st.Committed != st.Last {
		return false, nil
	}
	for _, g := range replicas {
		if g != nil && g.Applied() != st.Last {
			return false, nil
		}
	}
	return true, nil
}

// describe tells how far each replica of a group is.
func (c *cluster) describe(place int) string {
	text := fmt.Sprintf("leader on store %d", c.leader(place))
	if c.leader(place) == 0 {
		text = "no leader"
	}
	for i, g := range c.replicas(place) {
		if g != nil {
			st := g.Status()
			text += fmt.Sprintf("; store %d: term %d, last %d, committed %d, applied %d", i+1, st.Term, st.Last, st.Committed, st.Applied)
		}
	}
	return text
}

// states returns what the machines of a group remember, by store.
func (c *cluster) states(place int) []replicaState {
	var states []replicaState
	for i := range c.cfg.Stores {
		if m := c.machines[place*c.cfg.Stores+i]; m != nil {
			s := m.state()
			s.store = wire.StoreID(i + 1)
			states = append(states, s)
		}
	}
	return states
}

// close closes all stores, side by side since each waits for its log.
func (c *cluster) close() error {
	errs := make([]error, len(c.stores))
	var closing errgroup.Group
	for i, s := range c.stores {
		if s == nil {
			continue
		}
		closing.Go(func() error {
			if err := s.Close(); err != nil {
				errs[i] = fmt.Errorf("store %d: close: %w", i+1, err)
			}
			return nil
		})
	}
	_ = closing.Wait() // errors are in errs, all of them
	return errors.Join(errs...)
}

func storeDir(dir string, store int) string {
	return filepath.Join(dir, fmt.Sprintf("store-%d", store+1))
}

// scratch is the directory of a run.
type scratch struct {
	dir  string
	made bool // by us
	n    int  // stores
}

// newScratch makes the directory of a run, or checks the one that was given: it
// must not hold stores yet, because a benchmark of a used log is another one.
func newScratch(cfg *Config) (*scratch, error) {
	s := &scratch{dir: cfg.Dir, n: cfg.Stores}
	if cfg.Dir == "" {
		dir, err := os.MkdirTemp(".", "mrbench-")
		if err != nil {
			return nil, fmt.Errorf("scratch directory in the working directory (name another with Dir): %w", err)
		}
		s.dir, s.made = dir, true
	}
	for i := range s.n {
		switch _, err := os.Lstat(storeDir(s.dir, i)); {
		case err == nil:
			return nil, &engine.ConfigError{Field: "Dir", Value: cfg.Dir, Rule: fmt.Sprintf("must not hold stores yet: %s is there", storeDir(s.dir, i))}
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		}
	}
	return s, os.MkdirAll(s.dir, 0o700)
}

// remove removes what newScratch and the stores made.
func (s *scratch) remove() error {
	if s.made {
		return os.RemoveAll(s.dir)
	}
	var errs []error
	for i := range s.n {
		errs = append(errs, os.RemoveAll(storeDir(s.dir, i)))
	}
	return errors.Join(errs...)
}
