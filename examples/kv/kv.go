package main

import (
	"encoding/binary"
	"fmt"

	"multiraft/engine"
)

// kv is the state machine: a map that only Apply changes.
type kv struct{ values map[string]string }

func newKV() *kv { return &kv{values: make(map[string]string)} }

// Apply executes put commands.
func (m *kv) Apply(entries []engine.Entry) error {
	for i := range entries {
		key, value, err := decodePut(entries[i].Command)
		if err != nil {
			return fmt.Errorf("entry %d: %w", entries[i].Index, err)
		}
		m.values[key] = value
		entries[i].Result.Value = uint64(len(m.values))
	}
	return nil
}

// Query returns the value of a key, empty when there is none.
func (m *kv) Query(query any) (any, error) {
	key, ok := query.(string)
	if !ok {
		return nil, fmt.Errorf("query is a %T, want a string", query)
	}
	return m.values[key], nil
}

// encodePut puts the key's length in front of key and value.
func encodePut(key, value string) []byte {
	b := binary.AppendUvarint(nil, uint64(len(key)))
	return append(append(b, key...), value...)
}

func decodePut(b []byte) (key, value string, err error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b)-used) {
		return "", "", fmt.Errorf("put command of %d bytes has no valid key length", len(b))
	}
	b = b[used:]
	return string(b[:n]), string(b[n:]), nil
}
