//go:build !linux

package bench

import "time"

// pacer waits for moments of a schedule.
type pacer struct{}

func newPacer() *pacer { return &pacer{} }

func (p *pacer) wait(d time.Duration) { time.Sleep(min(max(d, minPace), maxPace)) }

func (p *pacer) close() {}
