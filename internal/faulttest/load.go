//go:build linux

package faulttest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"multiraft/wire"
)

// Load is clients that read and write registers of a cluster, and record it. One
// Load lasts over many rounds of faults; its clients run between Begin and End.
type Load struct {
	History History
	// Moves says that groups change their members.
	Moves bool
	// Retries has every other client send a write again, under the same number, as
	// long as its outcome is unknown, and sometimes without need.
	Retries bool
	// Wrote is told of every write that is acknowledged, from any goroutine. It may be
	// nil.
	Wrote func(g wire.GroupID, value uint64, index wire.Index)

	cluster *Cluster
	clients int
	values  atomic.Uint64
	rounds  uint64
	leaders []atomic.Uint64 // by group, store that is believed to lead

	keysMu  sync.Mutex // guards the fields below
	active  []*key     // what clients choose from
	before  uint64     // keys up to this one are somebody else's
	lastKey uint64

	progressMu sync.Mutex // guards the fields below
	progress   *sync.Cond
	attempts   int // operations that ended, somehow
	done       int // operations that were answered
	refused    map[string]int

	cancel  context.CancelFunc
	running sync.WaitGroup
}

// key is a register. It is left alone once too many of its writes have an
// unknown outcome, so that no history has more than MaxConcurrent operations
// under way: they are under way for ever.
type key struct {
	id    uint64
	slots int // operations under way
	open  int // of these, writes that nobody will hear of again
}

const (
	// activeKeys are in use at a time, or as many as there are groups.
	activeKeys = 32
	// maxClients of a key leaves a place for the read at the end.
	maxClients = MaxConcurrent - 1
	// maxOpen leaves room for clients besides the writes of unknown outcome.
	maxOpen = maxClients - 3
	// callTimeout is what a client waits for. A cluster that is well answers much
	// sooner, and needs less to elect a leader.
	callTimeout = 600 * time.Millisecond
)

// NewLoad makes clients for a cluster, none of which runs yet.
func NewLoad(c *Cluster, clients int) *Load {
	l := &Load{cluster: c, clients: clients, leaders: make([]atomic.Uint64, c.cfg.Groups+1), refused: make(map[string]int)}
	l.progress = sync.NewCond(&l.progressMu)
	l.fill()
	return l
}

// fill has clients choose from new keys only.
func (l *Load) fill() {
	l.active = nil
	for range max(activeKeys, l.cluster.cfg.Groups) {
		l.active = append(l.active, l.newKey())
	}
}

// Next makes other clients for the cluster, with keys and values of their own.
//
// REQUIRES: the clients do not run.
func (l *Load) Next() *Load {
	next := NewLoad(l.cluster, l.clients)
	next.Moves, next.before, next.lastKey = l.Moves, l.lastKey, l.lastKey
	next.values.Store(l.values.Load())
	next.fill()
	return next
}

func (l *Load) newKey() *key {
	l.lastKey++
	return &key{id: l.lastKey}
}

// group returns where a key lives.
func (l *Load) group(id uint64) wire.GroupID {
	return wire.GroupID(id%uint64(l.cluster.cfg.Groups) + 1)
}

// Begin starts the clients.
func (l *Load) Begin() {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.rounds++
	for at := range l.clients {
		l.running.Add(1)
		go func() { // ends when ctx does
			defer l.running.Done()
			rng := rand.New(rand.NewPCG(l.rounds, uint64(at))) //gosec:disable G404 -- a load, not a secret
			for ctx.Err() == nil {
				l.one(ctx, at, rng)
			}
		}()
	}
}

// End stops the clients and waits for them. What they wait for then has an
// unknown outcome.
func (l *Load) End() {
	l.cancel()
	l.running.Wait()
}

// one makes one operation.
func (l *Load) one(ctx context.Context, client int, rng *rand.Rand) {
	k := l.take(rng)
	if k == nil {
		_ = pause(ctx, retryInterval) // a round that ends is seen by the caller
		return
	}
	g := l.group(k.id)
	store := l.leader(g, rng)
	read := rng.IntN(2) == 0
	if rng.IntN(16) == 0 || read && rng.IntN(2) == 0 {
		store = l.anyStore(rng)
	}
	if read {
		l.read(ctx, client, k, store)
	} else {
		l.write(ctx, client, k, store, rng)
	}
}

func (l *Load) anyStore(rng *rand.Rand) wire.StoreID { return storeAt(rng.IntN(len(l.cluster.procs))) }

// leader returns the store that is believed to lead.
func (l *Load) leader(g wire.GroupID, rng *rand.Rand) wire.StoreID {
	if id := wire.StoreID(l.leaders[g].Load()); id != 0 {
		return id
	}
	return l.anyStore(rng)
}

// take chooses a key that has room for one more operation, nil when none has.
func (l *Load) take(rng *rand.Rand) *key {
	l.keysMu.Lock()
	defer l.keysMu.Unlock()
	for range 4 {
		if k := l.active[rng.IntN(len(l.active))]; k.slots < maxClients {
			k.slots++
			return k
		}
	}
	return nil
}

// give ends an operation. One that stays open keeps its place, and a key with
// too many of them is replaced.
func (l *Load) give(k *key, open bool) {
	l.keysMu.Lock()
	defer l.keysMu.Unlock()
	if !open {
		k.slots--
		return
	}
	if k.open++; k.open < maxOpen {
		return
	}
	for i := range l.active {
		if l.active[i] == k {
			l.active[i] = l.newKey()
		}
	}
}

func (l *Load) write(ctx context.Context, client int, k *key, store wire.StoreID, rng *rand.Rand) {
	q := Request{Op: opWrite, Group: l.group(k.id), Key: k.id, Value: l.values.Add(1), Timeout: callTimeout}
	tries := 1
	if l.Retries && client%2 == 0 {
		q.Again, tries = true, maxTries
	}
	began := l.History.Begin()
	open := false // something may become of an attempt
	for {
		hurry := q.Again && tries == maxTries && rng.IntN(hurried) == 0
		if q.Timeout = callTimeout; hurry {
			q.Timeout = time.Millisecond
		}
		a, err := l.call(ctx, store, q)
		if err == nil && a.Outcome == Done {
			l.History.Wrote(client, k.id, q.Value, began)
			if l.Wrote != nil {
				l.Wrote(q.Group, q.Value, wire.Index(a.Value))
			}
			l.leaders[q.Group].Store(uint64(store))
			l.give(k, false)
			l.ended(ctx, q.Group, a, nil)
			return
		}
		open = open || err == nil && a.Outcome == Unknown || err != nil && err != errDown
		if tries--; tries == 0 || !open || ctx.Err() != nil {
			if open {
				l.History.MayHaveWritten(client, k.id, q.Value, began)
			}
			l.give(k, open)
			l.ended(ctx, q.Group, a, err)
			return
		}
		if store = a.Leader; store == 0 && !hurry {
			store = l.anyStore(rng)
		} else if store == 0 {
			store = l.leader(q.Group, rng)
		}
		_ = pause(ctx, retryInterval) // the next attempt sees the end of the round
	}
}

const (
	// maxTries is how often a client sends a write before it gives up.
	maxTries = 8
	// hurried is of how many writes that may be repeated one is given no time, so
	// that it is sent again though the first attempt is well.
	hurried = 16
)

func (l *Load) read(ctx context.Context, client int, k *key, store wire.StoreID) {
	began := l.History.Begin()
	a, err := l.call(ctx, store, Request{Op: opRead, Group: l.group(k.id), Key: k.id, Timeout: callTimeout})
	if err == nil && a.Outcome == Done {
		l.History.Read(client, k.id, a.Value, began)
	}
	l.give(k, false)
	l.ended(ctx, l.group(k.id), a, err)
}

// errDown says that nothing was sent, as the store does not run.
var errDown = fmt.Errorf("store does not run: %w", errEnded)

// call gives a process the time-out and a little more, in case it stands still.
func (l *Load) call(ctx context.Context, store wire.StoreID, q Request) (Response, error) {
	p := l.cluster.Process(store)
	if p == nil {
		return Response{}, errDown
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout+callTimeout/2)
	defer cancel()
	return p.Call(ctx, q)
}

// ended notes how an operation ended. After one that was not answered, the
// client looks for another leader and takes a breath.
func (l *Load) ended(ctx context.Context, g wire.GroupID, a Response, err error) {
	ok := err == nil && a.Outcome == Done
	l.progressMu.Lock()
	l.attempts++
	if ok {
		l.done++
	} else if a.Text != "" {
		l.refused[a.Text]++
	}
	l.progress.Broadcast()
	l.progressMu.Unlock()
	if !ok {
		l.leaders[g].Store(uint64(a.Leader))
		_ = pause(ctx, retryInterval) // a round that ends is seen by the caller
	}
}

// Attempts waits until clients have ended n more operations, in whatever way.
func (l *Load) Attempts(n int) { l.await(n, func() int { return l.attempts }) }

// Answers waits until n more operations were answered, or the context ends.
func (l *Load) Answers(ctx context.Context, n int) error {
	stop := context.AfterFunc(ctx, func() {
		l.progressMu.Lock()
		l.progress.Broadcast()
		l.progressMu.Unlock()
	})
	defer stop()
	if err := ctx.Err(); err != nil {
		return err
	}
	l.await(n, func() int {
		if ctx.Err() != nil {
			return int(^uint(0) >> 1)
		}
		return l.done
	})
	return ctx.Err()
}

func (l *Load) await(n int, count func() int) {
	l.progressMu.Lock()
	defer l.progressMu.Unlock()
	for target := count() + n; count() < target; {
		l.progress.Wait()
	}
}

// Done returns how many operations were answered.
func (l *Load) Done() int {
	l.progressMu.Lock()
	defer l.progressMu.Unlock()
	return l.done
}

// ReadAll reads every key that was ever used once, on one of the given stores in
// turn, so that the history shows what is left. Without stores it asks those that
// vote in the key's group.
//
// REQUIRES: the clients do not run.
func (l *Load) ReadAll(ctx context.Context, stores ...wire.StoreID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*settleTimeout)
	defer cancel()
	on := make([][]wire.StoreID, l.cluster.cfg.Groups+1) // by group
	for g := 1; g < len(on); g++ {
		var err error
		if on[g], err = l.cluster.hosts(ctx, wire.GroupID(g), stores); err != nil {
			return err
		}
	}
	const readers = 8
	failed := make(chan error, readers)
	for r := range readers {
		go func() { // ends with its keys, or with ctx
			for id := l.before + uint64(r) + 1; id <= l.lastKey; id += readers {
				began := l.History.Begin()
				hosts := on[l.group(id)]
				store := hosts[int(id/readers)%len(hosts)]
				a, err := l.cluster.ask(ctx, store, Request{Op: opRead, Group: l.group(id), Key: id, Timeout: settleTimeout})
				if err != nil {
					failed <- fmt.Errorf("store %d: read of key %d: %w", store, id, err)
					return
				}
				l.History.Read(-1, id, a.Value, began)
			}
			failed <- nil
		}()
	}
	var first error
	for range readers {
		if err := <-failed; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Verify checks F1 and F2 on all stores of a healed cluster.
//
// REQUIRES: the clients do not run.
func (l *Load) Verify(ctx context.Context) error {
	var stores []wire.StoreID
	if l.cluster.cfg.Voters == len(l.cluster.procs) && !l.Moves {
		stores = l.cluster.Stores() // nobody else decides who has to have a replica
	}
	if err := l.ReadAll(ctx, stores...); err != nil {
		return err
	}
	if err := l.cluster.Agree(ctx, stores...); err != nil {
		return err
	}
	return l.History.Check()
}
