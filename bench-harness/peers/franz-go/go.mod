module ottla/bench-harness/peers/franz-go

go 1.26.0

require (
	github.com/twmb/franz-go v1.22.2
	ottla/bench-harness/peers/gocommon v0.0.0
)

require (
	github.com/HdrHistogram/hdrhistogram-go v1.4.0 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // indirect
)

replace ottla/bench-harness/peers/gocommon => ../gocommon
