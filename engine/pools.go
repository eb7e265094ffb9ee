package engine

import (
	"sync"

	"multiraft/wire"
)

// messageNode is a received message on its way through a mailbox.
type messageNode struct {
	message  wire.Message
	stranger wire.StoreID // that sent it, when its sender is no member; else zero
	next     *messageNode
}

// messagePool recycles nodes in chains, so that a frame or a round takes the
// lock once per chain and not per message.
type messagePool struct {
	mu     sync.Mutex
	chains []*messageNode // each of chainNodes nodes
}

const (
	chainNodes = 64
	// maxFreeChains bounds what the pool keeps, about 10 MiB.
	maxFreeChains = 1 << 10
)

// get returns a chain of chainNodes free nodes.
func (p *messagePool) get() *messageNode {
	p.mu.Lock()
	if n := len(p.chains); n > 0 {
		chain := p.chains[n-1]
		p.chains = p.chains[:n-1]
		p.mu.Unlock()
		return chain
	}
	p.mu.Unlock()
	slab := make([]messageNode, chainNodes)
	for i := range slab[:chainNodes-1] {
		slab[i].next = &slab[i+1]
	}
	return &slab[0]
}

// put takes back a chain of chainNodes nodes.
func (p *messagePool) put(chain *messageNode) {
	p.mu.Lock()
	if len(p.chains) < maxFreeChains {
		p.chains = append(p.chains, chain)
	}
	p.mu.Unlock()
}

// freeNodes gathers nodes until they make a chain.
type freeNodes struct {
	head *messageNode
	n    int
}

//mr:hotpath
func (f *freeNodes) add(node *messageNode, pool *messagePool) {
	node.message = wire.Message{} // lets go of the frame it borrowed from
	node.next = f.head
	f.head = node
	if f.n++; f.n == chainNodes {
		pool.put(f.head)
		*f = freeNodes{}
	}
}

// slicePool recycles slices. Those that grew beyond maxCap are left to the
// collector, so that one burst does not hold memory for ever.
type slicePool[T any] struct {
	mu     sync.Mutex
	free   [][]T
	maxCap int
}

// maxFreeSlices bounds what a pool keeps.
const maxFreeSlices = 1 << 14

//mr:hotpath
func (p *slicePool[T]) get() []T {
	p.mu.Lock()
	n := len(p.free)
	if n == 0 {
		p.mu.Unlock()
		return nil
	}
	s := p.free[n-1]
	p.free = p.free[:n-1]
	p.mu.Unlock()
	return s
}

// put takes back a slice whose elements nobody uses any more.
//
//mr:hotpath
func (p *slicePool[T]) put(s []T) {
	if cap(s) == 0 || cap(s) > p.maxCap {
		return
	}
	clear(s)
	p.mu.Lock()
	if len(p.free) < maxFreeSlices {
		p.free = append(p.free, s[:0])
	}
	p.mu.Unlock()
}

// objectPool recycles objects that refer to their store. It goes with the store,
// as a sync.Pool does not: the runtime lists those that were used, and with them
// all that can be reached from them, until the second collection after that.
type objectPool[T any] struct {
	mu   sync.Mutex
	free []*T
}

// maxFreeObjects bounds what a pool keeps: as many as are ever used at a time,
// one per connection or a few per group that is forwarded to.
const maxFreeObjects = 64

//mr:hotpath
func (p *objectPool[T]) get() *T {
	p.mu.Lock()
	n := len(p.free)
	if n == 0 {
		p.mu.Unlock()
		return new(T)
	}
	object := p.free[n-1]
	p.free[n-1] = nil
	p.free = p.free[:n-1]
	p.mu.Unlock()
	return object
}

//mr:hotpath
func (p *objectPool[T]) put(object *T) {
	p.mu.Lock()
	if len(p.free) < maxFreeObjects {
		p.free = append(p.free, object)
	}
	p.mu.Unlock()
}
