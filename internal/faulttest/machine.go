//go:build linux

package faulttest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"multiraft/engine"
	"multiraft/wire"
)

// machine is the state machine of one replica: registers, and a digest of all
// commands in order. It lives in memory: every start reads the newest snapshot and
// replays the log behind it.
type machine struct {
	registers map[uint64]uint64
	seen      map[uint64]bool // values, each of which is written once
	state     State
}

// State is what replicas are compared by.
type State struct {
	Count uint64 // commands executed
	Chain uint64 // digest of all of them, in order
	Twice uint64 // of them, those whose value had been there before
	Again uint64 // commands that were not executed, as they had been
}

// stateQuery asks a machine for its State; a uint64 asks for that register; a
// missingQuery for the values of it that no command had.
type (
	stateQuery   struct{}
	missingQuery []uint64
)

func newMachine() *machine {
	return &machine{registers: make(map[uint64]uint64), seen: make(map[uint64]bool)}
}

// Apply executes writes. The result of each is the index of its entry.
func (m *machine) Apply(entries []engine.Entry) error {
	for i := range entries {
		c := entries[i].Command
		if len(c) < commandHead {
			return fmt.Errorf("entry %d: command of %d bytes", entries[i].Index, len(c))
		}
		key, value := binary.LittleEndian.Uint64(c), binary.LittleEndian.Uint64(c[8:])
		for at, b := range c[commandHead:] {
			if b != fillerByte(value, at) {
				return fmt.Errorf("entry %d: command of value %d is spoilt at byte %d", entries[i].Index, value, commandHead+at)
			}
		}
		entries[i].Result.Value = uint64(entries[i].Index)
		if m.seen[value] {
			if c[commandHead-1] != 0 {
				m.state.Again++
				continue
			}
			m.state.Twice++
		}
		m.seen[value] = true
		m.registers[key] = value
		m.state.Count++
		m.state.Chain = (m.state.Chain ^ value) * 0x9e3779b97f4a7c15
		m.state.Chain ^= m.state.Chain >> 29
	}
	return nil
}

// Query returns a register, the State, or values.
func (m *machine) Query(query any) (any, error) {
	switch q := query.(type) {
	case uint64:
		return m.registers[q], nil
	case stateQuery:
		return m.state, nil
	case missingQuery:
		var missing []uint64
		for _, value := range q {
			if !m.seen[value] {
				missing = append(missing, value)
			}
		}
		return missing, nil
	}
	return nil, fmt.Errorf("query is a %T", query)
}

// Snapshot copies the state.
func (m *machine) Snapshot() (io.WriterTo, error) {
	return &machine{registers: maps.Clone(m.registers), seen: maps.Clone(m.seen), state: m.state}, nil
}

// WriteTo writes the state as a row of numbers: State, the registers by key, and
// the values that were seen.
func (m *machine) WriteTo(w io.Writer) (int64, error) {
	le := binary.LittleEndian
	var b []byte
	for _, n := range []uint64{m.state.Count, m.state.Chain, m.state.Twice, m.state.Again} {
		b = le.AppendUint64(b, n)
	}
	b = le.AppendUint64(b, uint64(len(m.registers)))
	for _, key := range slices.Sorted(maps.Keys(m.registers)) {
		b = le.AppendUint64(le.AppendUint64(b, key), m.registers[key])
	}
	b = le.AppendUint64(b, uint64(len(m.seen)))
	for _, value := range slices.Sorted(maps.Keys(m.seen)) {
		b = le.AppendUint64(b, value)
	}
	n, err := w.Write(b)
	return int64(n), err
}

// Restore reads what WriteTo wrote.
func (m *machine) Restore(_ wire.Index, from io.Reader) error {
	r := bufio.NewReader(from)
	var err error
	next := func() uint64 {
		var b [8]byte
		if err == nil {
			_, err = io.ReadFull(r, b[:])
		}
		return binary.LittleEndian.Uint64(b[:])
	}
	*m = *newMachine()
	m.state = State{Count: next(), Chain: next(), Twice: next(), Again: next()}
	for n := next(); err == nil && n > 0; n-- {
		key := next()
		m.registers[key] = next()
	}
	for n := next(); err == nil && n > 0; n-- {
		m.seen[next()] = true
	}
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	// The last piece is vouched for when the end was seen.
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("snapshot: bytes behind the end, or %w", err)
	}
	return nil
}

// A command is a key, a value, a byte that tells whether it may come again, and a
// filler that follows from the value.
const commandHead = 17

func encodeCommand(key, value uint64, again bool, filler int) []byte {
	c := binary.LittleEndian.AppendUint64(make([]byte, 0, commandHead+filler), key)
	c = binary.LittleEndian.AppendUint64(c, value)
	c = append(c, 0)
	if again {
		c[commandHead-1] = 1
	}
	for at := range filler {
		c = append(c, fillerByte(value, at))
	}
	return c
}

func fillerByte(value uint64, at int) byte { return byte(value*31 + uint64(at)) }
