//! Attributes that are added to resources.
//!
//! In: what the configuration adds where it is absent, and the tenant that the sender proved to be. Out: per `ResourceSpans`, what
//! has to be written. A resource may be missing, or (protobuf allows it) come in several pieces: what any piece has is there.

use std::ops::Range;

use crate::wire::{
    Attributes, Field, Fields, Malformed, Value, field_number as number, pair, put_bytes, put_text_attribute,
};

/// Resource attribute: who sent a span. Only the relay's word counts.
pub const TENANT: &str = "spantap.tenant";

/// What is added to every resource.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResourceEdits<'r> {
    /// Where the key is absent.
    pub attributes: &'r [(String, String)],
    /// Whatever is there.
    pub tenant: Option<&'r str>,
}

/// What is added to one.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// `attributes` fields of a `Resource`, to write into its first piece.
    attributes: Vec<u8>,
    has_resource: bool,
    tenant_goes: bool,
}

impl ResourceEdits<'_> {
    /// Of the `ResourceSpans` at `body`.
    pub fn of(&self, request: &[u8], body: Range<usize>) -> Result<Added, Malformed> {
        let mut added = Added::default();
        if self.attributes.is_empty() && self.tenant.is_none() {
            added.has_resource = true;
            return Ok(added);
        }
        let mut present = vec![false; self.attributes.len()];
        let (mut tenants, mut right) = (0, 0);
        let mut fields = Fields::new(request, body);
        while let Some(field) = fields.next()? {
            if field.number != number::resource_spans::RESOURCE {
                continue;
            }
            added.has_resource = true;
            for attribute in Attributes::new(request, field.bytes()?, number::resource::ATTRIBUTES) {
                let attribute = attribute?;
                for ((key, _), present) in self.attributes.iter().zip(&mut present) {
                    *present |= key.as_bytes() == attribute.key;
                }
                if attribute.key == TENANT.as_bytes() {
                    tenants += 1;
                    right += usize::from(self.tenant.is_some_and(|own| attribute.value == Value::Text(own.as_bytes())));
                }
            }
        }
        for ((key, value), _) in
            self.attributes.iter().zip(present).filter(|((key, _), present)| !present && key != TENANT)
        {
            put_text_attribute(&mut added.attributes, number::resource::ATTRIBUTES, key, value);
        }
        if let Some(tenant) = self.tenant.filter(|_| (tenants, right) != (1, 1)) {
            added.tenant_goes = tenants > 0;
            put_text_attribute(&mut added.attributes, number::resource::ATTRIBUTES, TENANT, tenant);
        }
        Ok(added)
    }
}

impl Added {
    /// A whole resource, if there is none to add to.
    pub fn take_resource(&mut self) -> Option<Vec<u8>> {
        if self.has_resource {
            return None;
        }
        let attributes = self.take_attributes()?;
        let mut resource = Vec::with_capacity(attributes.len() + 6);
        put_bytes(&mut resource, number::resource_spans::RESOURCE, &attributes);
        Some(resource)
    }

    /// What the first piece of the resource gets.
    pub fn take_attributes(&mut self) -> Option<Vec<u8>> {
        let attributes = std::mem::take(&mut self.attributes);
        (!attributes.is_empty()).then_some(attributes)
    }

    /// Whether an attribute of the resource is a tenant that nobody proved to be.
    pub fn replaces(&self, request: &[u8], field: &Field) -> Result<bool, Malformed> {
        if !self.tenant_goes {
            return Ok(false);
        }
        let (key, _) = pair(request, field.bytes()?)?;
        Ok(&request[key] == TENANT.as_bytes())
    }
}
