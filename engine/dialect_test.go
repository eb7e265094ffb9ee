package engine_test

import (
	"errors"
	"testing"

	"multiraft/engine"
	"multiraft/transport"
	"multiraft/wire"
)

// Stores that are held at an older protocol version work with newer ones, and a
// store that is not given a way to hold its transport back does not start.
func TestMixedProtocolVersions(t *testing.T) {
	c := newCluster(t, func(cfg *engine.Config) {
		if cfg.ID == 1 {
			cfg.MaxProtocol = 1
		}
	})
	c.startAll(1, 2, 3)
	for id := wire.GroupID(1); id <= 3; id++ { // each store leads one
		c.propose(id, "x")
		c.converge(id, 1)
	}
	for id, store := range c.stores {
		if bad := store.Metrics().BadFrames; bad > 0 {
			t.Errorf("store %d got %d bad frames", id, bad)
		}
	}

	cfg := c.config(4)
	cfg.MaxProtocol, cfg.Transport = 1, struct{ transport.Transport }{cfg.Transport}
	var fault *engine.ConfigError
	if _, err := engine.Open(cfg); !errors.As(err, &fault) || fault.Field != "MaxProtocol" {
		t.Errorf("a transport that cannot be held back: %v", err)
	}
	cfg.MaxProtocol = wire.ProtocolVersion + 1
	if _, err := engine.Open(cfg); !errors.As(err, &fault) || fault.Field != "MaxProtocol" {
		t.Errorf("a version that is not there: %v", err)
	}
}
