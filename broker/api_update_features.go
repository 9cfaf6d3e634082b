package broker

import (
	"context"
	"math"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// levelFeature is the one feature that is finalised here: the level of the metadata's commands. Kafka's own features
// are not claimed.
const levelFeature = "metadata.level"

// UpdateFeatures, versions 0-2 (1: kinds of upgrade, validation only; 2: one error for all). The level rises only, and
// only to what every registered broker supports.
func (b *Broker) updateFeatures(ctx context.Context, rc *requestContext, req *kmsg.UpdateFeaturesRequest) *kmsg.UpdateFeaturesResponse {
	ctx, cancel := adminDeadline(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrUpdateFeaturesResponse()
	errs := make([]error, len(req.FeatureUpdates))
	var failed error
	for i := range req.FeatureUpdates {
		if errs[i] = featureFault(b.meta.Image(), &req.FeatureUpdates[i]); errs[i] == nil && i > 0 {
			errs[i] = faultf(errInvalidRequest, "The feature is named twice.")
		}
		if failed == nil {
			failed = errs[i]
		}
	}
	if failed == nil && !(rc.Version >= 1 && req.ValidateOnly) && len(req.FeatureUpdates) > 0 {
		level := uint16(req.FeatureUpdates[0].MaxVersionLevel)
		if failed = b.finalize(ctx, level); failed == nil {
			b.log.Info("metadata level finalised", "level", level, "client", rc.ClientID, "host", rc.ClientHost)
		}
	}
	if rc.Version >= 2 {
		resp.ErrorCode, resp.ErrorMessage = answer(failed)
		return resp
	}
	for i := range req.FeatureUpdates {
		r := kmsg.NewUpdateFeaturesResponseResult()
		r.Feature = req.FeatureUpdates[i].Feature
		if errs[i] == nil {
			errs[i] = failed // all or nothing
		}
		r.ErrorCode, r.ErrorMessage = answer(errs[i])
		resp.Results = append(resp.Results, r)
	}
	return resp
}

func featureFault(img *raft.Image, u *kmsg.UpdateFeaturesRequestFeatureUpdate) error {
	switch level := u.MaxVersionLevel; {
	case u.Feature != levelFeature:
		return faultf(errInvalidUpdateVersion, "Invalid update version %d for feature %.60s. There is one feature here: %s.", level, u.Feature, levelFeature)
	case level < 0 || uint16(level) < img.Level:
		return faultf(errInvalidUpdateVersion, "Invalid update version %d for feature %s. It is %d, and cannot be downgraded.", level, levelFeature, img.Level)
	case uint16(level) > raft.MaxLevel:
		return faultf(errInvalidUpdateVersion, "Invalid update version %d for feature %s. This broker supports %d.", level, levelFeature, raft.MaxLevel)
	default:
		return nil
	}
}

// finalize raises the level.
func (b *Broker) finalize(ctx context.Context, level uint16) error {
	_, err := b.propose(ctx, raft.FinalizeLevel{Level: level}, 0)
	return err
}

// setFeatures shows what may be finalised and what is.
func setFeatures(resp *kmsg.ApiVersionsResponse, img *raft.Image) {
	s := kmsg.NewApiVersionsResponseSupportedFeature()
	s.Name, s.MinVersion, s.MaxVersion = levelFeature, 1, int16(raft.MaxLevel)
	resp.SupportedFeatures = append(resp.SupportedFeatures, s)
	f := kmsg.NewApiVersionsResponseFinalizedFeature()
	f.Name, f.MinVersionLevel, f.MaxVersionLevel = levelFeature, int16(img.Level), int16(img.Level)
	resp.FinalizedFeatures = append(resp.FinalizedFeatures, f)
	resp.FinalizedFeaturesEpoch = int64(min(img.Index, math.MaxInt64))
}
