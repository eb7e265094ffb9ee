package transport

import "sync"

// Limits of a bufferPool: enough for what is on its way to the peers of a busy
// store, little enough not to matter in memory.
const (
	maxPooledBuffers     = 4096
	maxPooledBufferBytes = 1 << 20
	maxPooledBytes       = 16 << 20
)

// bufferPool keeps payload buffers that were sent, for Buffer to hand out again.
// It is a stack, so that the buffer handed out is the one most likely in cache.
// A sync.Pool would box each slice on the way in.
type bufferPool struct {
	mu   sync.Mutex // guards the fields below; taken after frameQueue.mu
	free [][]byte
	size int // sum of the capacities in free
}

//mr:hotpath
func (p *bufferPool) get() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.free) - 1
	if last < 0 {
		return nil
	}
	b := p.free[last]
	p.free[last] = nil
	p.free = p.free[:last]
	p.size -= cap(b)
	return b
}

//mr:hotpath
func (p *bufferPool) put(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.putLocked(b)
}

// putAll recycles a batch under one lock and clears the slice of it.
//
//mr:hotpath
func (p *bufferPool) putAll(batch [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, b := range batch {
		p.putLocked(b)
		batch[i] = nil
	}
}

func (p *bufferPool) putLocked(b []byte) {
	if cap(b) == 0 || cap(b) > maxPooledBufferBytes || len(p.free) == maxPooledBuffers || p.size+cap(b) > maxPooledBytes {
		return
	}
	p.free = append(p.free, b[:0])
	p.size += cap(b)
}
