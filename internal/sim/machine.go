package sim

import (
	"bytes"
	"encoding/binary"
	"io"
	"time"

	"github.com/cespare/xxhash/v2"

	"multiraft/engine"
	"multiraft/wire"
)

// machineState is what a state machine holds: how many commands it was given,
// and a digest of all of them in order.
type machineState struct {
	count int
	chain uint64
	last  wire.Index
}

// machine is the state machine of one replica in one life of its store. It
// records what it is given and shows each command to the checker first.
type machine struct {
	site  *site
	group int
	state machineState
	// kept is where the memory of a durable machine is, nil when it has none.
	// It holds an earlier state, as a machine that syncs now and then would.
	kept *machineState
}

// durableMachine is a machine that tells where it is after a restart.
type durableMachine struct{ *machine }

// AppliedIndex returns the last index that is durable in the machine.
func (m durableMachine) AppliedIndex() (wire.Index, error) { return m.kept.last, nil }

// Apply records commands. Their results tell their place in the history.
func (m *machine) Apply(entries []engine.Entry) error {
	c := m.site.c
	for i := range entries {
		e := &entries[i]
		if c.plan.Plant == PlantTwistedCommand && c.plantRandom.chance(0.001) {
			e.Command = append([]byte{^e.Command[0]}, e.Command[1:]...)
		}
		c.check.applies(m, e)
		sum := commandSum(e.Command)
		if m.state.count == 0 {
			m.state.chain = sum
		} else {
			m.state.chain = chained(m.state.chain, sum)
		}
		m.state.count++
		m.state.last = e.Index
		e.Result = engine.Result{Value: uint64(m.state.count)}
		c.count(commandsApplied)
	}
	if len(entries) > 0 {
		c.check.appliesDurable(m, &entries[len(entries)-1])
	}
	c.trace.mix(m.state.chain)
	if m.kept != nil && c.machines.chance(0.2) {
		*m.kept = m.state
	}
	return nil
}

// snapshotMachine is a machine whose state can be written out.
type snapshotMachine struct{ *machine }

// durableSnapshotMachine is one that also tells where it is.
type durableSnapshotMachine struct {
	durableMachine
	snapshotMachine
}

// Apply, Query and the like are those of the one machine in both.
func (m durableSnapshotMachine) Apply(entries []engine.Entry) error {
	return m.durableMachine.Apply(entries)
}

// Query returns the state.
func (m durableSnapshotMachine) Query(query any) (any, error) { return m.durableMachine.Query(query) }

// Digest is that of the one machine in both.
func (m durableSnapshotMachine) Digest() uint64 { return m.durableMachine.Digest() }

// stateBytes is the length of a captured state without its filler.
const stateBytes = 24

// Snapshot captures the state, and a filler that makes it large.
func (m snapshotMachine) Snapshot() (io.WriterTo, error) {
	c := m.site.c
	c.count(statesCaptured)
	b := binary.LittleEndian.AppendUint64(nil, uint64(m.state.count))
	b = binary.LittleEndian.AppendUint64(b, m.state.chain)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.state.last))
	for i := range c.machines.between(0, time.Duration(c.shape.heavy)) {
		b = append(b, byte(i))
	}
	return bytes.NewBuffer(b), nil
}

// Restore takes over a state, which must be one that the history goes through.
func (m snapshotMachine) Restore(index wire.Index, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	c := m.site.c
	c.count(statesRestored)
	for i := stateBytes; i < len(b); i++ {
		if b[i] != byte(i-stateBytes) {
			c.check.fail(ruleMachine, "group %d: store %d is given a state at %d in which byte %d is not what was captured", groupID(m.group), m.site.at+1, index, i)
			break
		}
	}
	m.state = machineState{
		count: int(binary.LittleEndian.Uint64(b)),
		chain: binary.LittleEndian.Uint64(b[8:]),
		last:  wire.Index(binary.LittleEndian.Uint64(b[16:])),
	}
	c.check.restores(m.machine, index)
	c.trace.mix(m.state.chain)
	if m.kept != nil {
		*m.kept = m.state
		m.kept.last = index
	}
	return nil
}

// Digest tells states apart. Replicas compare it.
func (m *machine) Digest() uint64 { return m.state.chain }

// Query returns the state.
func (m *machine) Query(any) (any, error) { return m.state, nil }

// A command is the number of the operation that proposed it, the group it is
// for, and a filler.
const commandHead = 16

func encodeCommand(dst []byte, id uint64, g int, filler int) []byte {
	dst = binary.LittleEndian.AppendUint64(dst[:0], id)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(groupID(g)))
	for i := range filler {
		dst = append(dst, byte(id+uint64(i)))
	}
	return dst
}

// opOf returns which operation proposed a command.
func opOf(b []byte) (id uint64, ok bool) {
	if len(b) < commandHead {
		return 0, false
	}
	return binary.LittleEndian.Uint64(b), true
}

func commandSum(b []byte) uint64 { return xxhash.Sum64(b) }
