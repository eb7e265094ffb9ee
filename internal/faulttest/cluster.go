//go:build linux

package faulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"multiraft/wire"
)

// ClusterConfig says what a Cluster is. Dirs has one directory per store; the
// zero value of every other field selects its default.
type ClusterConfig struct {
	Dirs []string
	// Groups defaults to 4.
	Groups int
	// SegmentBytes defaults to 1 MiB, so that the log rotates under small loads.
	SegmentBytes int64
	// Filler bounds the bytes that are added to commands. Zero means 512.
	Filler int
	// SnapshotEntries is after how many commands a group makes a snapshot. Zero
	// means 40 for a store alone and 300 for others, some of which then need one
	// after they were away.
	SnapshotEntries uint64
	// Voters is with how many of the stores groups begin, from the first on. Zero
	// means all.
	Voters int
	// Listen has the address of each store when there are no proxies.
	Listen []string
	// Cluster is the id of the cluster. Zero means one that all tests share.
	Cluster uint64
	// TLS returns the files of a store. Nil means that connections are plain.
	TLS func(store wire.StoreID) *TLSPaths
	// Death returns when a store kills itself. Nil means never.
	Death func(store wire.StoreID) *Death
	// Leases and Budget are those of ChildConfig.
	Leases bool
	Budget int64
	// Wrap returns the command line in front of a store's. Nil means none.
	Wrap func(store wire.StoreID) []string
}

// Cluster is a process per store, and a Proxy per pair of stores.
type Cluster struct {
	cfg     ClusterConfig
	proxies map[[2]wire.StoreID]*Proxy // by smaller and larger id

	mu    sync.RWMutex // guards the fields below
	procs []*Process   // nil for those that do not run
	wiped []bool       // stores whose directory was emptied once
}

// defaultCluster is the cluster id where none is given.
const defaultCluster = 0xfa17

// NewCluster makes a cluster, none of whose stores runs yet.
func NewCluster(cfg ClusterConfig) (*Cluster, error) {
	if cfg.Groups == 0 {
		cfg.Groups = 4
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = 1 << 20
	}
	if cfg.Cluster == 0 {
		cfg.Cluster = defaultCluster
	}
	if cfg.Voters == 0 {
		cfg.Voters = len(cfg.Dirs)
	}
	if cfg.SnapshotEntries == 0 {
		cfg.SnapshotEntries = 300
		if len(cfg.Dirs) == 1 {
			cfg.SnapshotEntries = 40
		}
	}
	if cfg.Filler == 0 {
		cfg.Filler = 512
	}
	c := &Cluster{cfg: cfg, proxies: make(map[[2]wire.StoreID]*Proxy),
		procs: make([]*Process, len(cfg.Dirs)), wiped: make([]bool, len(cfg.Dirs))}
	if cfg.Listen != nil {
		return c, nil
	}
	for a := range c.procs {
		for b := a + 1; b < len(c.procs); b++ {
			p, err := NewProxy(uint64(a*len(c.procs) + b))
			if err != nil {
				return nil, errors.Join(err, c.Close())
			}
			c.proxies[[2]wire.StoreID{storeAt(a), storeAt(b)}] = p
		}
	}
	return c, nil
}

func storeAt(at int) wire.StoreID { return wire.StoreID(at + 1) }

// Ticks make elections take 200 to 400 ms. A store alone has nobody to wait for.
const (
	tickInterval      = 10 * time.Millisecond
	tickIntervalAlone = time.Millisecond
)

// Start starts one store that does not run.
func (c *Cluster) Start(id wire.StoreID) error {
	return c.start(id, false)
}

// StartWiped empties the directory of a store that does not run, and starts it as
// one that has lost its disk.
func (c *Cluster) StartWiped(id wire.StoreID) error {
	if err := os.RemoveAll(c.Dir(id)); err != nil {
		return err
	}
	c.mu.Lock()
	c.wiped[id-1] = true
	c.mu.Unlock()
	return c.start(id, true)
}

// StartLost is StartWiped for a store that says which groups it had: their replicas
// come back by themselves.
func (c *Cluster) StartLost(id wire.StoreID) error {
	if err := os.RemoveAll(c.Dir(id)); err != nil {
		return err
	}
	return c.start(id, true)
}

// Dir returns the directory of a store.
func (c *Cluster) Dir(id wire.StoreID) string {
	return filepath.Join(c.cfg.Dirs[id-1], fmt.Sprintf("store-%d", id))
}

func (c *Cluster) start(id wire.StoreID, lost bool) error {
	c.mu.RLock()
	joinOnly := c.wiped[id-1]
	c.mu.RUnlock()
	cfg := ChildConfig{
		Cluster: c.cfg.Cluster, Store: id, Groups: c.cfg.Groups, Dir: c.Dir(id), DiskLost: lost, JoinOnly: joinOnly,
		Listen: "127.0.0.1:0", Peers: make(map[wire.StoreID]string),
		SegmentBytes: c.cfg.SegmentBytes, Tick: tickInterval, Filler: c.cfg.Filler,
		SnapshotEntries: c.cfg.SnapshotEntries, Leases: c.cfg.Leases, Budget: c.cfg.Budget,
	}
	if c.cfg.TLS != nil {
		cfg.TLS = c.cfg.TLS(id)
	}
	if c.cfg.Death != nil {
		cfg.Death = c.cfg.Death(id)
	}
	if len(c.procs) == 1 {
		cfg.Tick = tickIntervalAlone
	}
	if c.cfg.Listen != nil {
		cfg.Listen = c.cfg.Listen[id-1]
	}
	for at := range c.procs {
		peer := storeAt(at)
		if at < c.cfg.Voters {
			cfg.Members = append(cfg.Members, peer)
		}
		switch {
		case peer == id:
		case c.cfg.Listen != nil:
			cfg.Peers[peer] = c.cfg.Listen[at]
		default:
			cfg.Peers[peer] = c.Proxy(id, peer).Addr()
		}
	}
	var wrap []string
	if c.cfg.Wrap != nil {
		wrap = c.cfg.Wrap(id)
	}
	p, err := StartProcess(wrap, cfg)
	if err != nil {
		return fmt.Errorf("store %d: %w", id, err)
	}
	for pair, proxy := range c.proxies {
		if pair[1] == id { // the store with the smaller id dials
			proxy.SetTarget(p.hello.Text)
		}
	}
	c.mu.Lock()
	c.procs[id-1] = p
	c.mu.Unlock()
	return nil
}

// StartAll starts all stores that do not run.
func (c *Cluster) StartAll() error {
	for at := range c.procs {
		if c.Process(storeAt(at)) == nil {
			if err := c.Start(storeAt(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Stores returns the ids of all stores.
func (c *Cluster) Stores() []wire.StoreID {
	var ids []wire.StoreID
	for at := range c.procs {
		ids = append(ids, storeAt(at))
	}
	return ids
}

// Process returns a store's process, nil when it was not started.
func (c *Cluster) Process(id wire.StoreID) *Process {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.procs[id-1]
}

// Proxy returns the one between two stores.
func (c *Cluster) Proxy(a, b wire.StoreID) *Proxy {
	return c.proxies[[2]wire.StoreID{min(a, b), max(a, b)}]
}

// Set changes the weather of what one store sends to another.
func (c *Cluster) Set(from, to wire.StoreID, w Weather) {
	p := c.Proxy(from, to)
	if from < to {
		p.Set(w, *p.weather[1].Load())
	} else {
		p.Set(*p.weather[0].Load(), w)
	}
}

// Kill ends a store with SIGKILL and returns the end of its log for people.
func (c *Cluster) Kill(id wire.StoreID) string { return c.end(id, (*Process).Kill) }

// Stop closes a store in good order.
func (c *Cluster) Stop(id wire.StoreID) string { return c.end(id, (*Process).Stop) }

func (c *Cluster) end(id wire.StoreID, end func(*Process) string) string {
	c.mu.Lock()
	p := c.procs[id-1]
	c.procs[id-1] = nil
	c.mu.Unlock()
	if p == nil {
		return ""
	}
	return end(p)
}

// KillAll ends all stores with SIGKILL.
func (c *Cluster) KillAll() {
	for at := range c.procs {
		c.Kill(storeAt(at))
	}
}

// Close ends everything.
func (c *Cluster) Close() error {
	c.KillAll()
	var err error
	for _, p := range c.proxies {
		err = errors.Join(err, p.Close())
	}
	return err
}

// Heal ends bad weather and starts what does not run.
func (c *Cluster) Heal() error {
	for _, p := range c.proxies {
		p.Set(Weather{}, Weather{})
	}
	for at := range c.procs {
		if p := c.Process(storeAt(at)); p != nil {
			select {
			case <-p.Ended():
				c.Kill(storeAt(at))
			default:
			}
		}
	}
	return c.StartAll()
}

// Health asks a store why it or its groups stopped.
func (c *Cluster) Health(ctx context.Context, id wire.StoreID) (Response, error) {
	p := c.Process(id)
	if p == nil {
		return Response{}, errEnded
	}
	return p.Call(ctx, Request{Op: opHealth, Timeout: settleTimeout})
}

// settleTimeout bounds what a healed cluster needs to answer. It says nothing
// about how long that usually takes.
const settleTimeout = time.Minute

// DivergedError says that replicas of a group differ (F2).
type DivergedError struct {
	Group  wire.GroupID
	States map[wire.StoreID]State
}

func (e *DivergedError) Error() string {
	return fmt.Sprintf("group %d: replicas differ, or applied twice: %+v", e.Group, e.States)
}

// Agree compares the replicas of all groups on the given stores, each at an
// index that covers everything acknowledged. Without stores it compares those that
// vote in each group.
//
// REQUIRES: nothing is being written.
func (c *Cluster) Agree(ctx context.Context, stores ...wire.StoreID) error {
	for g := wire.GroupID(1); int(g) <= c.cfg.Groups; g++ {
		on, err := c.hosts(ctx, g, stores)
		if err != nil {
			return err
		}
		if err := c.AgreeOn(ctx, g, on...); err != nil {
			return err
		}
	}
	return nil
}

// hosts returns the stores that were given, or those that vote in a group.
func (c *Cluster) hosts(ctx context.Context, g wire.GroupID, given []wire.StoreID) ([]wire.StoreID, error) {
	if len(given) > 0 {
		return given, nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return c.Members(ctx, g)
}

// AgreeOn is Agree for one group, on stores that have a replica of it.
func (c *Cluster) AgreeOn(ctx context.Context, g wire.GroupID, stores ...wire.StoreID) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	ask := func(id wire.StoreID) (State, error) {
		a, err := c.ask(ctx, id, Request{Op: opState, Group: g, Timeout: settleTimeout})
		if err != nil {
			err = fmt.Errorf("store %d: state of group %d: %w", id, g, err)
		}
		return a.State, err
	}
	for {
		states := make(map[wire.StoreID]State)
		wrong := false
		for _, id := range stores {
			s, err := ask(id)
			if err != nil {
				return err
			}
			states[id] = s
			wrong = wrong || s != states[stores[0]] || s.Twice != 0
		}
		// Writes of unknown outcome may still have been on their way: then a later
		// read sees more, and all are compared again.
		again, err := ask(stores[0])
		if err != nil {
			return err
		}
		switch {
		case again != states[stores[0]]:
		case wrong:
			return &DivergedError{Group: g, States: states}
		default:
			return nil
		}
	}
}

// Members returns the stores that vote in a group.
func (c *Cluster) Members(ctx context.Context, g wire.GroupID) ([]wire.StoreID, error) {
	return c.Change(ctx, Request{Op: opMembers, Group: g})
}

// Change has the leader of a group, whoever that is, change its members, and returns
// its voters. It goes on until the change is in force, or ctx ends.
func (c *Cluster) Change(ctx context.Context, q Request) ([]wire.StoreID, error) {
	q.Timeout = changeTimeout
	last := "no store runs"
	for at := 0; ; at++ {
		if p := c.Process(storeAt(at % len(c.procs))); p != nil {
			a, err := p.Call(ctx, q)
			switch {
			case err == nil && a.Outcome == Done:
				return a.Members, nil
			case err != nil:
				last = err.Error()
			default:
				last = a.Text
				if a.Leader != 0 {
					at = int(a.Leader) - 2 // whom the next round asks
				}
			}
		}
		if err := pause(ctx, retryInterval); err != nil {
			return nil, fmt.Errorf("group %d: change of members: %w; the last answer was: %s", q.Group, err, last)
		}
	}
}

// changeTimeout is what one store is given for a change, before another is asked.
const changeTimeout = 3 * time.Second

// ask repeats a request that changes nothing until it is answered, for as long as a
// healed cluster may need.
func (c *Cluster) ask(ctx context.Context, id wire.StoreID, q Request) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		p := c.Process(id)
		if p == nil {
			return Response{}, errEnded
		}
		a, err := p.Call(ctx, q)
		if err != nil {
			return Response{}, err
		}
		if a.Outcome == Done {
			return a, nil
		}
		if err := pause(ctx, retryInterval); err != nil {
			return Response{}, fmt.Errorf("%w; the last answer was: %s", err, a.Text)
		}
	}
}

// retryInterval spares the machine while a cluster cannot answer.
const retryInterval = 5 * time.Millisecond

// pause waits, and returns ctx's error when that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
