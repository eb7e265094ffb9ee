package raftlog

import "strings"

func (r *recovery) loadCheckpoint() (place, error) { return place{segment: r.oldest}, nil }

func isTemporary(base string) bool {
	base, ok := strings.CutSuffix(base, temporarySuffix)
	if !ok {
		return false
	}
	for _, prefix := range [...]string{sparePrefix, checkpointPrefix} {
		if _, ok := parseName(base, prefix); ok {
			return true
		}
	}
	return false
}
