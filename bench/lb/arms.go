package main

// arms that can be compared. The first four differ in the BalancePolicy alone. The others are what an
// Envoy can do without our control plane, with everything but the balancer as we would have configured it.
var arms = []arm{
	{name: "LEAST_REQUEST", start: controlPlane("mode: Equal"),
		about: "our control plane with equal weights: Envoy's choice of the less busy of two servers, with outlier detection"},
	{name: "Capacity", warms: true, start: controlPlane("mode: Enforce"),
		about: "our control plane, a BalancePolicy that says nothing but Enforce"},
	{name: "Capacity tilt 0.25", warms: true, start: controlPlane("mode: Enforce", "capacity: {tilt: 0.25}"),
		about: "the same with a tilt of 0.25 towards servers that answer faster by nature"},
	{name: "RTT", warms: true, start: controlPlane("mode: Enforce", "strategy: RTT"),
		about: "our control plane with the strategy RTT: weights by response time"},
	{name: "ROUND_ROBIN", start: static(balancer{Policy: roundRobin}),
		about: "Envoy alone"},
	{name: "LEAST_REQUEST slow start", start: static(balancer{Policy: slowStart}),
		about: "Envoy alone, LEAST_REQUEST with 30 s of slow start for a server that is new or was ejected"},
	{name: "ORCA", start: loadReports(static(balancer{Policy: clientSideWeighted})),
		about: "Envoy alone, client_side_weighted_round_robin by the load that the servers report with each answer"},
	{name: "PID", warms: true, start: startPID,
		about: "Envoy's ROUND_ROBIN with weights from a PID controller on CPU and requests in flight"},
	{name: "oracle", start: static(balancer{Policy: leastRequest, weighted: true}),
		about: "Envoy alone, LEAST_REQUEST as ours, with the true speeds as weights, which nobody is told"},
}
