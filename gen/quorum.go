package gen

import (
	"fmt"
	"slices"

	. "github.com/dave/jennifer/jen"
)

// quorum builds z_quorum.go: the commit index of one configuration and of two.
// It leans on replicaSet of z_progress.go. The networks of the schema sort all
// values; here each is cut down to what finds the one that decides.
func quorum(s *Schema) *File {
	f := s.groupFile()
	index := func() *Statement { return Qual(s.wirePath(), "Index") }
	table := func() *Statement { return Id("match").Op("*").Index(Id("MaxReplicas")).Add(index()) }

	f.Add(doc("unbound is the commit index of no voters, the half of a joint configuration that does not bind.",
		Const().Id("unbound").Op("=").Add(index()).Call(Qual(mathPath, "MaxUint64"))))

	n := len(s.Networks)
	dispatch := []Code{Case(Lit(0)).Block(Return(Id("unbound")))}
	for i := 1; i <= n; i++ {
		var args []Code
		for j := range i {
			args = append(args, Id("v").Index(Lit(j)))
		}
		var body Code
		switch i {
		case 1:
			body = Return(args[0])
		case 2:
			body = Return(Min(args...))
		default:
			body = Return(Id(networkName(i)).Call(args...))
		}
		dispatch = append(dispatch, Case(Lit(i)).Block(body))
	}
	f.Add(doc(`commitIndex returns the highest index that a majority of the voters has.

Members that joined together have adjacent slots from 0, so the values are most often used in place; otherwise they are gathered first.`+hotpath,
		Func().Id("commitIndex").Params(table(), Id("voters").Id("replicaSet")).Add(index()).Block(
			Id("v").Op(":=").Id("match"),
			If(Id("voters").Op("&").Parens(Id("voters").Op("+").Lit(1)).Op("!=").Lit(0)).Block(
				Var().Id("gathered").Index(Id("MaxReplicas")).Add(index()),
				Id("gather").Call(Op("&").Id("gathered"), Id("match"), Id("voters")),
				Id("v").Op("=").Op("&").Id("gathered"),
			),
			Switch(Id("voters").Dot("count").Call()).Block(dispatch...),
			Return(Id("commitIndexOfMany").Call(Id("v"), Id("voters").Dot("count").Call())),
		)))
	f.Add(doc("jointCommitIndex returns the highest index that majorities of both configurations have."+hotpath,
		Func().Id("jointCommitIndex").Params(table(), List(Id("incoming"), Id("outgoing")).Id("replicaSet")).Add(index()).Block(
			Return(Min(
				Id("commitIndex").Call(Id("match"), Id("incoming")),
				Id("commitIndex").Call(Id("match"), Id("outgoing")))),
		)))
	f.Add(doc("gather copies the values of the voters to the first places of v."+hotpath,
		Func().Id("gather").Params(List(Id("v"), Id("match")).Op("*").Index(Id("MaxReplicas")).Add(index()), Id("voters").Id("replicaSet")).Block(
			For(Id("i").Op(":=").Lit(0), Id("voters").Op("!=").Lit(0), Id("i").Op("++")).Block(
				Id("v").Index(Id("i")).Op("=").Id("match").Index(Id("voters").Dot("first").Call()),
				Id("voters").Op("&=").Id("voters").Op("-").Lit(1).Comment("without its lowest slot"),
			),
		)))
	f.Add(doc("commitIndexOfMany sorts a copy of the first n values."+hotpath,
		Func().Id("commitIndexOfMany").Params(Id("v").Op("*").Index(Id("MaxReplicas")).Add(index()), Id("n").Int()).Add(index()).Block(
			Id("sorted").Op(":=").Op("*").Id("v"),
			Qual(slicesPath, "Sort").Call(Id("sorted").Index(Op(":").Id("n"))),
			Return(Id("sorted").Index(Parens(Id("n").Op("-").Lit(1)).Op("/").Lit(2))),
		)))
	for i := 3; i <= n; i++ {
		selector(f, index, i, s.Networks[i-1])
	}
	return f
}

// networkName is the function that finds the commit index of n values.
func networkName(n int) string { return fmt.Sprintf("commitIndexOf%d", n) }

// decisive is the place, in ascending order, of the value that a majority of n
// reaches.
func decisive(n int) int { return (n - 1) / 2 }

// step is a comparator of which one or both results are used.
type step struct {
	Comparator
	low, high bool
}

// prune drops what does not contribute to the value at place want.
func prune(network Network, want int) []step {
	needed := map[int]bool{want: true}
	var steps []step
	for i := len(network) - 1; i >= 0; i-- {
		c := network[i]
		if !needed[c.A] && !needed[c.B] {
			continue
		}
		steps = append(steps, step{c, needed[c.A], needed[c.B]})
		// Both inputs decide, whichever output was asked for.
		needed[c.A], needed[c.B] = true, true
	}
	slices.Reverse(steps)
	return steps
}

func selector(f *File, index func() *Statement, n int, network Network) {
	names := make([]string, n)
	for i := range names {
		names[i] = string(rune('a' + i))
	}
	steps := prune(network, decisive(n))
	var body []Code
	for i, st := range steps {
		a, b := Id(names[st.A]), Id(names[st.B])
		low, high := Min(a, b), Max(a, b)
		switch {
		case i == len(steps)-1 && st.low:
			body = append(body, Return(low))
		case i == len(steps)-1:
			body = append(body, Return(high))
		case st.low && st.high:
			body = append(body, List(a, b).Op("=").List(low, high))
		case st.low:
			body = append(body, a.Clone().Op("=").Add(low))
		default:
			body = append(body, b.Clone().Op("=").Add(high))
		}
	}
	f.Add(doc(fmt.Sprintf("%s returns the %s of %d values, by a sorting network of which only what leads there is left."+hotpath,
		networkName(n), ordinal(decisive(n)+1), n),
		Func().Id(networkName(n)).Params(List(ids(names)...).Add(index())).Add(index()).Block(body...)))
}

func ordinal(n int) string {
	switch n {
	case 1:
		return "lowest"
	case 2:
		return "second lowest"
	case 3:
		return "third lowest"
	case 4:
		return "fourth lowest"
	}
	return fmt.Sprintf("%dth lowest", n)
}
