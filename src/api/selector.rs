//! How resources are selected by their labels.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{LABEL, LABEL_VALUE};

/// Resources of the same namespace, by their labels, as Kubernetes selects. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE}))]
    pub match_labels: BTreeMap<String, String>,
    /// Rules for labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<SelectorRule>,
}

/// A rule for one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.operator in ['In', 'NotIn'] ? has(self.values) : !has(self.values)",
     "message": "In and NotIn need values, Exists and DoesNotExist have none: set values, or remove them", "fieldPath": ".operator"}
]))]
pub struct SelectorRule {
    /// The name of the label.
    #[schemars(length(min = 1, max = 317), regex(pattern = LABEL))]
    pub key: String,
    /// In, NotIn, Exists or DoesNotExist.
    pub operator: SelectorOperator,
    /// Values of the label, for In and NotIn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(max = 63), regex(pattern = LABEL_VALUE)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub values: Option<Vec<String>>,
}

/// How a label is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectorOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether these labels match.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let by_label = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        by_label && self.match_expressions.iter().all(|rule| rule.matches(labels))
    }
}

impl SelectorRule {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = || value.is_some_and(|value| self.values.iter().flatten().any(|one| one == value));
        match self.operator {
            SelectorOperator::In => listed(),
            SelectorOperator::NotIn => !listed(),
            SelectorOperator::Exists => value.is_some(),
            SelectorOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_selected_as_kubernetes_selects() {
        let labels: BTreeMap<String, String> = [("team", "a"), ("tier", "x")].map(|(k, v)| (k.into(), v.into())).into();
        let rule = |key: &str, operator, values: &[&str]| SelectorRule {
            key: key.into(),
            operator,
            values: (!values.is_empty()).then(|| values.iter().map(ToString::to_string).collect()),
        };
        use SelectorOperator::{DoesNotExist, Exists, In, NotIn};
        for (rules, expected) in [
            (vec![], true),
            (vec![rule("team", In, &["a", "b"])], true),
            (vec![rule("team", In, &["b"])], false),
            (vec![rule("none", In, &["b"])], false),
            (vec![rule("team", NotIn, &["a"])], false),
            (vec![rule("none", NotIn, &["a"])], true),
            (vec![rule("team", Exists, &[])], true),
            (vec![rule("none", Exists, &[])], false),
            (vec![rule("none", DoesNotExist, &[])], true),
            (vec![rule("team", Exists, &[]), rule("tier", DoesNotExist, &[])], false),
        ] {
            let selector = LabelSelector { match_expressions: rules.clone(), ..Default::default() };
            assert_eq!(selector.matches(&labels), expected, "{rules:?}");
        }
        let by_label = |value: &str| LabelSelector {
            match_labels: [("team".to_owned(), value.to_owned())].into(),
            ..Default::default()
        };
        assert!(by_label("a").matches(&labels));
        assert!(!by_label("b").matches(&labels));
        assert!(LabelSelector::default().matches(&BTreeMap::new()), "{{}} selects all");
    }
}
