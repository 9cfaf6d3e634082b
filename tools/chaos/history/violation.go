package history

import "fmt"

// Rule names what was broken.
type Rule string

// The rules; doc.go says what each means.
const (
	Inconsistent    Rule = "inconsistent"
	LostWrite       Rule = "lost-write"
	LostRead        Rule = "lost-read"
	Unseen          Rule = "unseen"
	Short           Rule = "short"
	Duplicate       Rule = "duplicate"
	Order           Rule = "order"
	SendBack        Rule = "nonmonotonic-send"
	IntSendBack     Rule = "int-nonmonotonic-send"
	PollBack        Rule = "nonmonotonic-poll"
	IntPollBack     Rule = "int-nonmonotonic-poll"
	PollSkip        Rule = "poll-skip"
	ListBack        Rule = "list-back"
	EpochBack       Rule = "epoch-back"
	TwoEpochs       Rule = "two-epochs"
	TwoLeaders      Rule = "two-leaders"
	CommitBack      Rule = "commit-back"
	Unsent          Rule = "unsent"
	DataLoss        Rule = "data-loss"
	UnexplainedLoss Rule = "unexplained-loss"
	Replicas        Rule = "replicas"
	Harness         Rule = "harness"
)

// Violation is one broken rule.
type Violation struct {
	Rule   Rule
	Where  Where
	Offset int64
	What   string
}

func (v Violation) String() string {
	if v.Where.Topic == "" {
		return fmt.Sprintf("%s: %s", v.Rule, v.What)
	}
	return fmt.Sprintf("%s: %v offset %d: %s", v.Rule, v.Where, v.Offset, v.What)
}

// perRule bounds how many violations of one rule are kept; the rest is counted.
const perRule = 10
