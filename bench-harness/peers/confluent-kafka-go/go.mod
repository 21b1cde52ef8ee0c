module ottla/bench-harness/peers/confluent-kafka-go

go 1.26.0

require (
	github.com/confluentinc/confluent-kafka-go/v2 v2.11.1
	ottla/bench-harness/peers/gocommon v0.0.0
)

require github.com/HdrHistogram/hdrhistogram-go v1.4.0 // indirect

replace ottla/bench-harness/peers/gocommon => ../gocommon
