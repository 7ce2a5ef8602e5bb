// Validates objects of the operators' own kinds against their schemas: node validate.mjs FILE.json...
//
// Each file is a list of objects. It passes over kinds that it has no schema of, and counts those that it knows.
import { readFileSync } from "node:fs";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";

const kinds = { PodMonitor, ServiceMonitor, PrometheusRule, ScaledObject };
const counts = {};
let wrong = 0;
for (const file of process.argv.slice(2)) {
  for (const object of JSON.parse(readFileSync(file, "utf8"))) {
    const Kind = kinds[object.kind];
    if (!Kind) continue;
    counts[object.kind] = (counts[object.kind] ?? 0) + 1;
    try {
      new Kind(object).validate();
    } catch (error) {
      wrong += 1;
      console.log(`${file}: ${object.kind} ${object.metadata.name}: ${error.message}`);
    }
  }
}
console.log(`${Object.entries(counts).map(([kind, count]) => `${count} ${kind}`).join(", ")}: ${wrong} wrong`);
process.exit(wrong ? 1 : 0);
