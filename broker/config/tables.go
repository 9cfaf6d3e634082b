package config

import (
	"slices"
	"strings"
)

// The tables by name, made once at start and read only from then on.
var (
	topicByName  = map[string]*Setting{}
	brokerByName = map[string]*Setting{}
	allBroker    []*Setting // sorted by name
)

func init() {
	for i := range topicSettings {
		s := &topicSettings[i]
		s.Update = ClusterWide
		topicByName[s.Name] = s
	}
	add := func(list []Setting) {
		for i := range list {
			s := &list[i]
			if brokerByName[s.Name] != nil {
				panic("BUG: two settings named " + s.Name)
			}
			if s.Synonyms == nil {
				s.Synonyms = under(s.Name)
			}
			brokerByName[s.Name] = s
			allBroker = append(allBroker, s)
		}
	}
	add(brokerSettings)
	add(millraceSettings)
	add(brokerDefaults())
	slices.SortFunc(allBroker, func(a, b *Setting) int { return strings.Compare(a.Name, b.Name) })
}

// brokerDefaults makes the broker settings that are the topic settings'
// defaults: log.segment.bytes from segment.bytes, and so on.
func brokerDefaults() []Setting {
	var list []Setting
	for i := range topicSettings {
		t := &topicSettings[i]
		for j, syn := range t.Synonyms {
			s := Setting{
				Name: syn.Name, Type: t.Type, Valid: t.Valid, Update: ClusterWide, Inert: t.Inert,
				Doc: "Default of the topic setting " + t.Name + ".",
			}
			if syn.Scale != 1 {
				s.Type, s.Valid = Int, unitRule(t.Name)
				s.Doc = "Default of the topic setting " + t.Name + ", in " + unitName(syn.Scale) + "."
			}
			if len(t.Synonyms) > 1 {
				s.Synonyms = t.Synonyms
			}
			if j == len(t.Synonyms)-1 {
				// Only the weakest of a family has a default, or the stronger
				// ones would always win.
				s.Default = unscale(t.Default, syn.Scale)
			} else {
				s.Unset = true
			}
			list = append(list, s)
		}
	}
	return list
}

// unitRule is the rule of the hours and minutes of a topic setting.
func unitRule(topic string) Rule {
	switch topic {
	case RetentionMs:
		return atLeast(-1)
	case SegmentMs:
		return atLeast(1)
	default:
		return atLeast(0)
	}
}

func unitName(scale int64) string {
	if scale == hourMillis {
		return "hours"
	}
	return "minutes"
}

// TopicSetting returns the row of a topic setting, or nil.
func TopicSetting(name string) *Setting { return topicByName[name] }

// BrokerSetting returns the row of a broker setting, or nil.
func BrokerSetting(name string) *Setting { return brokerByName[name] }

// TopicNames are the names of all topic settings, sorted.
func TopicNames() []string {
	names := make([]string, len(topicSettings))
	for i := range topicSettings {
		names[i] = topicSettings[i].Name
	}
	return names
}

// BrokerNames are the names of all broker settings, sorted.
func BrokerNames() []string {
	names := make([]string, len(allBroker))
	for i, s := range allBroker {
		names[i] = s.Name
	}
	return names
}
