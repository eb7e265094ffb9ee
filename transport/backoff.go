package transport

import "time"

// backoff spaces attempts: each pause is drawn from the upper half of a span
// that doubles up to max, so that stores that failed together do not come back
// together.
type backoff struct {
	min, max time.Duration
	rand     func() uint64
	span     time.Duration
}

func (b *backoff) reset() { b.span = 0 }

func (b *backoff) next() time.Duration {
	b.span = min(max(b.min, 2*b.span), b.max)
	half := b.span / 2
	return b.span - time.Duration(b.rand()%uint64(half+1)) // #nosec G115 -- half is not negative, what is left of it no larger
}
