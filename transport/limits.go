package transport

import (
	"errors"
	"fmt"
)

// Limits bounds what connections cost before their hello is accepted. The zero
// value of each field selects its default.
//
// The limits hold twice: once for all strangers, once for all familiar addresses
// together. An address is familiar when it is that of a peer, as [TCPConfig].Peers
// or SetPeer name it by number, or when a peer last proved there who it is, by
// its certificate. So a flood of strangers does not keep peers out. Addresses of
// IPv6 count by their /64.
type Limits struct {
	// MaxGreeting bounds the connections whose hello is not accepted yet. One more
	// closes the one that came first: a hello takes a moment, and who is not
	// through with it when so many came later is not going to be. Zero means 64.
	MaxGreeting int
	// MaxGreetingPerAddress bounds the same for one address. Zero means 16.
	MaxGreetingPerAddress int
	// AcceptsPerSecond is how many accepted connections get to say hello; others
	// are closed unread. As many may come at once. A handshake takes up to a
	// millisecond of processor. Zero means 200.
	AcceptsPerSecond int
	// AcceptsPerSecondPerAddress bounds the same for one address. Zero means 100.
	AcceptsPerSecondPerAddress int
	// GreetingBytes bounds what is read from a connection before its hello is
	// accepted. Zero means 64 KiB, which holds chains of a dozen certificates.
	GreetingBytes int
	// GreetingBytesPerSecond bounds the same for all connections together, which
	// wait when it is exceeded. Zero means 2 MiB.
	GreetingBytesPerSecond int
}

// Validate reports all faults at once.
func (l Limits) Validate() error {
	l = l.withDefaults()
	var faults []error
	for _, f := range []struct {
		field      string
		value      int
		least, top int
	}{
		{"MaxGreeting", l.MaxGreeting, 1, 1 << 16},
		{"MaxGreetingPerAddress", l.MaxGreetingPerAddress, 1, 1 << 16},
		{"AcceptsPerSecond", l.AcceptsPerSecond, 1, 1 << 20},
		{"AcceptsPerSecondPerAddress", l.AcceptsPerSecondPerAddress, 1, 1 << 20},
		{"GreetingBytes", l.GreetingBytes, 4 << 10, 1 << 20},
		{"GreetingBytesPerSecond", l.GreetingBytesPerSecond, 4 << 10, 1 << 30},
	} {
		if f.value < f.least || f.value > f.top {
			faults = append(faults, fmt.Errorf("transport: Limits.%s: %d must be within [%d, %d]", f.field, f.value, f.least, f.top))
		}
	}
	return errors.Join(faults...)
}

func (l Limits) withDefaults() Limits {
	l.MaxGreeting = orDefault(l.MaxGreeting, 64)
	l.MaxGreetingPerAddress = orDefault(l.MaxGreetingPerAddress, 16)
	l.AcceptsPerSecond = orDefault(l.AcceptsPerSecond, 200)
	l.AcceptsPerSecondPerAddress = orDefault(l.AcceptsPerSecondPerAddress, 100)
	l.GreetingBytes = orDefault(l.GreetingBytes, 64<<10)
	l.GreetingBytesPerSecond = orDefault(l.GreetingBytesPerSecond, 2<<20)
	return l
}
