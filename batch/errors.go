package batch

import (
	"fmt"

	"multiraft/wire"
)

// badSection says what is wrong with a payload and where. It is apart so that
// the hot path holds none of fmt.
//
//go:noinline
func badSection(offset int, what string, value uint64) error {
	return fmt.Errorf("batch: payload byte %d: %w: %s %d", offset, wire.ErrBadMessage, what, value)
}

// badMessage adds the place in the payload to an error of wire.
//
//go:noinline
func badMessage(offset int, err error) error {
	return fmt.Errorf("batch: payload byte %d: %w", offset, err)
}
