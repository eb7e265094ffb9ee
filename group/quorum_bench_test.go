package group

import (
	"fmt"
	"testing"

	"multiraft/wire"
)

// benchMatch is in an order that no network finds sorted.
var benchMatch = [MaxReplicas]wire.Index{7, 3, 9, 1, 8, 2, 6, 5, 4, 12, 11, 10, 16, 13, 15, 14}

func BenchmarkCommitIndex(b *testing.B) {
	for _, n := range []int{1, 3, 5, 7, 9} {
		for _, slots := range []struct {
			name   string
			voters replicaSet
		}{
			{"dense", 1<<n - 1},
			{"sparse", (1<<n - 1) << 1},
		} {
			b.Run(fmt.Sprintf("voters=%d/slots=%s", n, slots.name), func(b *testing.B) {
				match := benchMatch
				for b.Loop() {
					sinkIndex = commitIndex(&match, slots.voters)
				}
			})
		}
	}
}

func BenchmarkJointCommitIndex(b *testing.B) {
	for _, c := range []struct {
		name               string
		incoming, outgoing replicaSet
	}{
		{"3+0", 0b111, 0},
		{"3+3", 0b111, 0b1011},
		{"5+5", 0b11111, 0b1111100},
	} {
		b.Run("voters="+c.name, func(b *testing.B) {
			match := benchMatch
			for b.Loop() {
				sinkIndex = jointCommitIndex(&match, c.incoming, c.outgoing)
			}
		})
	}
}

// BenchmarkPlainCommitIndex is what sorting costs, for comparison.
func BenchmarkPlainCommitIndex(b *testing.B) {
	for _, n := range []int{3, 5, 7} {
		b.Run(fmt.Sprintf("voters=%d", n), func(b *testing.B) {
			match := benchMatch
			for b.Loop() {
				sinkIndex = plainCommitIndex(&match, 1<<n-1)
			}
		})
	}
}

func BenchmarkTallyResult(b *testing.B) {
	votes := tally{granted: 0b11, refused: 0b1000}
	for b.Loop() {
		sinkResult = votes.result(0b111, 0b11010)
	}
}
