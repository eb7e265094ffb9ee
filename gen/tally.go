package gen

import (
	. "github.com/dave/jennifer/jen"
)

// tallies builds z_tally.go: votes as bits and who has won. It leans on
// replicaSet of z_progress.go.
func tallies(s *Schema) *File {
	f := s.groupFile()
	enumeration(f, "voteResult", "voteResult is how a campaign stands.", []choice{
		{"votePending", "votePending: the votes still out decide.", "pending"},
		{"voteWon", "voteWon: majorities of both configurations have granted.", "won"},
		{"voteLost", "voteLost: no majority is possible any more.", "lost"},
	})
	f.Add(doc("tally counts the answers of one campaign.",
		Type().Id("tally").Struct(List(Id("granted"), Id("refused")).Id("replicaSet"))))
	f.Add(doc("record notes an answer. The first of each voter counts."+hotpath,
		pointerMethod("t", "tally", "record").Params(Id("slot").Int(), Id("granted").Bool()).Block(
			Switch().Block(
				Case(Parens(Id("t").Dot("granted").Op("|").Id("t").Dot("refused")).Dot("has").Call(Id("slot"))).Block(),
				Case(Id("granted")).Block(Id("t").Dot("granted").Op("=").Id("t").Dot("granted").Dot("with").Call(Id("slot"))),
				Default().Block(Id("t").Dot("refused").Op("=").Id("t").Dot("refused").Dot("with").Call(Id("slot"))),
			),
		)))
	f.Add(doc("result says how the campaign stands in the incoming and the outgoing configuration. An empty one does not bind."+hotpath,
		method("t", "tally", "result").Params(List(Id("incoming"), Id("outgoing")).Id("replicaSet")).Id("voteResult").Block(
			List(Id("in"), Id("out")).Op(":=").List(
				Id("t").Dot("resultOf").Call(Id("incoming")), Id("t").Dot("resultOf").Call(Id("outgoing"))),
			Switch().Block(
				Case(Id("in").Op("==").Id("voteLost").Op("||").Id("out").Op("==").Id("voteLost")).Block(Return(Id("voteLost"))),
				Case(Id("in").Op("==").Id("voteWon").Op("&&").Id("out").Op("==").Id("voteWon")).Block(Return(Id("voteWon"))),
			),
			Return(Id("votePending")),
		)))
	f.Add(doc("resultOf says how the campaign stands in one configuration."+hotpath,
		method("t", "tally", "resultOf").Params(Id("voters").Id("replicaSet")).Id("voteResult").Block(
			Id("half").Op(":=").Id("voters").Dot("count").Call().Op("/").Lit(2),
			Switch().Block(
				Case(Id("voters").Op("==").Lit(0).Op("||").Parens(Id("t").Dot("granted").Op("&").Id("voters")).Dot("count").Call().Op(">").Id("half")).Block(Return(Id("voteWon"))),
				Case(Parens(Id("voters").Op("&^").Id("t").Dot("refused")).Dot("count").Call().Op("<=").Id("half")).Block(Return(Id("voteLost"))),
			),
			Return(Id("votePending")),
		)))
	return f
}
