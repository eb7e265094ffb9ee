package bench

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"github.com/cespare/xxhash/v2"

	"multiraft/engine"
	"multiraft/wire"
)

// machine is the state machine of every replica: it does next to nothing with a
// command, so that what is measured is the engine, and remembers enough to tell
// afterwards whether all replicas got the same commands in the same order.
type machine struct {
	group wire.GroupID

	// mu guards the fields below. The engine calls Apply and Query from one
	// goroutine at a time; the lock is for state, which a verification calls
	// while a late proposal may still be applied. It costs once per Apply.
	mu     sync.Mutex
	index  wire.Index // of the last command
	count  uint64
	digest uint64
	// sequences has the sequence number of every applied command. Nil unless
	// the run is verified, and then made when the first command comes.
	sequences bitmap
	verify    bool
	// duplicates counts commands whose sequence number was applied before.
	duplicates     uint64
	firstDuplicate uint64
	restored       wire.Index // of the snapshot it was given last, 0 for none
}

func newMachine(group wire.GroupID, verify bool) *machine {
	return &machine{group: group, verify: verify}
}

// Apply counts and digests the commands, and answers each with the count.
//
//mr:hotpath
func (m *machine) Apply(entries []engine.Entry) error {
	m.mu.Lock()
	for i := range entries {
		e := &entries[i]
		if e.Index <= m.index {
			m.mu.Unlock()
			return orderError(m.group, e.Index, m.index)
		}
		m.index = e.Index
		m.count++
		m.digest = chain(m.digest, uint64(e.Index), e.Command)
		e.Result.Value = m.count
		if !m.verify {
			continue
		}
		if len(e.Command) < sequenceBytes {
			m.mu.Unlock()
			return commandError(m.group, e.Index, len(e.Command))
		}
		if n := binary.LittleEndian.Uint64(e.Command); !m.sequences.set(n) {
			if m.duplicates == 0 {
				m.firstDuplicate = n
			}
			m.duplicates++
		}
	}
	m.mu.Unlock()
	return nil
}

func orderError(group wire.GroupID, index, last wire.Index) error {
	return fmt.Errorf("group %d: entry %d applied after entry %d", group, index, last)
}

func commandError(group wire.GroupID, index wire.Index, n int) error {
	return fmt.Errorf("group %d: entry %d: command of %d bytes has no sequence number", group, index, n)
}

// chain folds one command into a digest that depends on all commands, their
// indexes and their order.
//
//mr:hotpath
func chain(digest, index uint64, command []byte) uint64 {
	// Odd 64-bit constants of xxhash; multiplying by an odd number loses nothing.
	const prime1, prime2 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
	digest ^= xxhash.Sum64(command) + index*prime2
	return bits.RotateLeft64(digest, 27)*prime1 + prime2
}

// countQuery is the one query there is. It is empty, so that passing it as an
// interface allocates nothing.
type countQuery struct{}

// Query returns the number of commands applied, as a uint64.
func (m *machine) Query(any) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count, nil
}

// state returns a copy of what the machine remembers of its commands. The
// sequence numbers are shared: they are only valid while nothing is applied.
func (m *machine) state() replicaState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return replicaState{
		index:          m.index,
		count:          m.count,
		digest:         m.digest,
		duplicates:     m.duplicates,
		firstDuplicate: m.firstDuplicate,
		sequences:      m.sequences,
		restored:       m.restored,
	}
}
