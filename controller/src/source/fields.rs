//! Owns the names of Kubernetes' own fields at every place where the slim types read only some of them. A field that is
//! here but not in a slim type is known and does not concern the mesh; one that is in neither is a mistake, and the
//! nearest name here says what was probably meant. What is below an unread field is not looked at.

use lacewing_crds::Kind;

/// Below a `List`, which is no kind of its own.
pub const LIST: &[&str] = &["apiVersion", "items", "kind", "metadata"];

const NAMESPACE: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
const OBJECT: &[&str] = NAMESPACE;
const SLICE: &[&str] = &["apiVersion", "kind", "metadata", "addressType", "endpoints", "ports"];

const METADATA: &[&str] = &[
    "annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName",
    "generation", "labels", "managedFields", "name", "namespace", "ownerReferences", "resourceVersion", "selfLink", "uid",
];
const OWNER_REFERENCE: &[&str] = &["apiVersion", "blockOwnerDeletion", "controller", "kind", "name", "uid"];

const POD_SPEC: &[&str] = &[
    "activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "containers", "dnsConfig", "dnsPolicy",
    "enableServiceLinks", "ephemeralContainers", "hostAliases", "hostIPC", "hostNetwork", "hostPID", "hostUsers",
    "hostname", "hostnameOverride", "imagePullSecrets", "initContainers", "nodeName", "nodeSelector", "os", "overhead",
    "preemptionPolicy", "priority", "priorityClassName", "readinessGates", "resourceClaims", "resources",
    "restartPolicy", "runtimeClassName", "schedulerName", "schedulingGates", "schedulingGroup", "securityContext",
    "serviceAccount", "serviceAccountName", "setHostnameAsFQDN", "shareProcessNamespace", "subdomain",
    "terminationGracePeriodSeconds", "tolerations", "topologySpreadConstraints", "volumes", "workloadRef",
];
const CONTAINER: &[&str] = &[
    "args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "ports",
    "readinessProbe", "resizePolicy", "resources", "restartPolicy", "restartPolicyRules", "securityContext",
    "startupProbe", "stdin", "stdinOnce", "terminationMessagePath", "terminationMessagePolicy", "tty", "volumeDevices",
    "volumeMounts", "workingDir",
];
const CONTAINER_PORT: &[&str] = &["containerPort", "hostIP", "hostPort", "name", "protocol"];
const POD_STATUS: &[&str] = &[
    "allocatedResources", "conditions", "containerStatuses", "ephemeralContainerStatuses", "extendedResourceClaimStatus",
    "hostIP", "hostIPs", "initContainerStatuses", "message", "nominatedNodeName", "observedGeneration", "phase",
    "podIP", "podIPs", "qosClass", "reason", "resize", "resourceClaimStatuses", "resources", "startTime",
];
const POD_IP: &[&str] = &["ip"];

const SERVICE_SPEC: &[&str] = &[
    "allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "externalIPs", "externalName", "externalTrafficPolicy",
    "healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass",
    "loadBalancerIP", "loadBalancerSourceRanges", "ports", "publishNotReadyAddresses", "selector", "sessionAffinity",
    "sessionAffinityConfig", "trafficDistribution", "type",
];
const SERVICE_PORT: &[&str] = &["appProtocol", "name", "nodePort", "port", "protocol", "targetPort"];

const SLICE_ENDPOINT: &[&str] =
    &["addresses", "conditions", "deprecatedTopology", "hints", "hostname", "nodeName", "targetRef", "zone"];
const SLICE_CONDITIONS: &[&str] = &["ready", "serving", "terminating"];
const HINTS: &[&str] = &["forNodes", "forZones"];
const HINT: &[&str] = &["name"];
const SLICE_PORT: &[&str] = &["appProtocol", "name", "port", "protocol"];
const TARGET_REF: &[&str] = &["apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid"];

/// The fields that Kubernetes has in objects of `kind` directly below `path` (without list indexes). Empty where
/// nothing is known.
pub fn below(kind: Kind, path: &[&str]) -> &'static [&'static str] {
    match (kind, path) {
        (Kind::Namespace, []) => NAMESPACE,
        (Kind::Pod | Kind::Service, []) => OBJECT,
        (Kind::EndpointSlice, []) => SLICE,
        (_, ["metadata"]) => METADATA,
        (_, ["metadata", "ownerReferences"]) => OWNER_REFERENCE,
        (Kind::Pod, ["spec"]) => POD_SPEC,
        (Kind::Pod, ["spec", "containers" | "initContainers"]) => CONTAINER,
        (Kind::Pod, ["spec", "containers" | "initContainers", "ports"]) => CONTAINER_PORT,
        (Kind::Pod, ["status"]) => POD_STATUS,
        (Kind::Pod, ["status", "podIPs"]) => POD_IP,
        (Kind::Service, ["spec"]) => SERVICE_SPEC,
        (Kind::Service, ["spec", "ports"]) => SERVICE_PORT,
        (Kind::EndpointSlice, ["endpoints"]) => SLICE_ENDPOINT,
        (Kind::EndpointSlice, ["endpoints", "conditions"]) => SLICE_CONDITIONS,
        (Kind::EndpointSlice, ["endpoints", "targetRef"]) => TARGET_REF,
        (Kind::EndpointSlice, ["endpoints", "hints"]) => HINTS,
        (Kind::EndpointSlice, ["endpoints", "hints", "forNodes" | "forZones"]) => HINT,
        (Kind::EndpointSlice, ["ports"]) => SLICE_PORT,
        _ => &[],
    }
}
