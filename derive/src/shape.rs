//! Writes the impls: one call on `Shape` for each thing that counts.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{
    Data, DeriveInput, Error, Field, Fields, GenericParam, Generics, Result, Type, TypePath,
    ext::IdentExt, parse_quote, spanned::Spanned, visit::Visit,
};

use crate::attributes::{self, BY_HAND, Cache};

/// `impl Structural`.
pub fn structural(input: &DeriveInput) -> Result<TokenStream> {
    let by_hand = Cache::read(&input.attrs)?.hash_by_hand;
    let name = input.ident.unraw().to_string();
    let of_type = serde(&input.attrs, by_hand.is_some())?;
    let of_arguments = arguments(&input.generics);
    let inside = match (&by_hand, &input.data) {
        (Some(text), _) => quote!(.by_hand(#text)),
        (None, Data::Struct(data)) => fields(&name, &data.fields)?,
        (None, Data::Enum(data)) => {
            let mut all = quote!(.enumeration());
            for variant in &data.variants {
                let (name_of_variant, of_variant) =
                    (variant.ident.unraw().to_string(), serde(&variant.attrs, false)?);
                let inside = fields(&name, &variant.fields)?;
                all.extend(quote!(.variant(#name_of_variant) #of_variant #inside));
            }
            all
        }
        (None, Data::Union(data)) => {
            let message = "the structural hash cannot follow a union";
            return Err(Error::new(data.union_token.span, format!("{message}; {BY_HAND}")));
        }
    };
    let (ident, generics) = (&input.ident, bounded(&input.generics));
    let (for_impl, of_self, bounds) = generics.split_for_impl();
    let shape = quote! {
        ::bedrock_sso_proxy::cache::Shape::new(#name) #of_type #of_arguments #inside .finish()
    };
    // The compiler, which finds the cycle of types that hold each other, shows this name. A constant inside another
    // cannot speak of the parameters of a generic type.
    let hash = if input.generics.params.is_empty() {
        quote!({
            const A_CYCLE_OF_TYPES_NEEDS_CACHE_HASH_BY_HAND: u64 = #shape;
            A_CYCLE_OF_TYPES_NEEDS_CACHE_HASH_BY_HAND
        })
    } else {
        shape
    };
    Ok(quote! {
        #[automatically_derived]
        impl #for_impl ::bedrock_sso_proxy::cache::Structural for #ident #of_self #bounds {
            const STRUCT_HASH: u64 = #hash;
        }
    })
}

/// `impl CachedObject`.
pub fn cached(input: &DeriveInput) -> Result<TokenStream> {
    let Cache { name, ttl, .. } = Cache::read(&input.attrs)?;
    let Some((name, ttl)) = name.zip(ttl) else {
        let message = "say how it is cached: #[cache(name = \"…\", ttl = seconds)]";
        return Err(Error::new(input.ident.span(), message));
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.value().is_empty() || !name.value().chars().all(plain) {
        return Err(Error::new(name.span(), "a name is made of a-z, 0-9 and _"));
    }
    let seconds: u64 = ttl.base10_parse()?;
    if seconds == 0 {
        return Err(Error::new(ttl.span(), "a time to live is at least one second"));
    }
    let ident = &input.ident;
    let mut generics = bounded(&input.generics);
    if generics.type_params().next().is_some() {
        let (_, of_self, _) = input.generics.split_for_impl();
        let whole: syn::WherePredicate =
            parse_quote!(#ident #of_self: ::bedrock_sso_proxy::cache::Storable);
        generics.make_where_clause().predicates.push(whole);
    }
    let (for_impl, of_self, bounds) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #for_impl ::bedrock_sso_proxy::cache::CachedObject for #ident #of_self #bounds {
            const NAME: &'static str = #name;
            const TTL: ::core::time::Duration = ::core::time::Duration::from_secs(#seconds);
        }
    })
}

fn serde(attributes: &[syn::Attribute], by_hand: bool) -> Result<TokenStream> {
    let all = attributes::serde(attributes, by_hand)?;
    Ok(quote!(#(.attribute(#all))*))
}

/// Every argument has to have a hash, whether or not a field is of its type.
fn bounded(generics: &Generics) -> Generics {
    let mut generics = generics.clone();
    let types: Vec<_> = generics.type_params().map(|parameter| parameter.ident.clone()).collect();
    for ident in types {
        let bound: syn::WherePredicate =
            parse_quote!(#ident: ::bedrock_sso_proxy::cache::Structural);
        generics.make_where_clause().predicates.push(bound);
    }
    generics
}

/// Types and constants that a generic type was made with; lifetimes make no difference to a stored value.
fn arguments(generics: &Generics) -> TokenStream {
    let each = generics.params.iter().filter_map(|parameter| match parameter {
        GenericParam::Lifetime(_) => None,
        GenericParam::Type(parameter) => {
            let ident = &parameter.ident;
            Some(quote!(.argument(<#ident as ::bedrock_sso_proxy::cache::Structural>::STRUCT_HASH)))
        }
        GenericParam::Const(parameter) => {
            let (ident, of_type) = (&parameter.ident, &parameter.ty);
            Some(quote!(
                .argument(<#of_type as ::bedrock_sso_proxy::cache::Structural>::STRUCT_HASH)
                .constant(#ident as u128)
            ))
        }
    });
    quote!(#(#each)*)
}

fn fields(of: &str, fields: &Fields) -> Result<TokenStream> {
    let mut all = match fields {
        Fields::Named(_) => quote!(.named()),
        Fields::Unnamed(_) => quote!(.tuple()),
        Fields::Unit => quote!(.unit()),
    };
    for (index, field) in fields.iter().enumerate() {
        all.extend(self::field(of, index, field)?);
    }
    Ok(all)
}

fn field(of: &str, index: usize, field: &Field) -> Result<TokenStream> {
    let given = Cache::read(&field.attrs)?;
    if let Some(misplaced) =
        given.name.as_ref().map(|name| name.span()).or(given.ttl.as_ref().map(|ttl| ttl.span()))
    {
        return Err(Error::new(misplaced, "`name` and `ttl` belong on the type"));
    }
    let name = field.ident.as_ref().map_or(index.to_string(), |ident| ident.unraw().to_string());
    let attributes = serde(&field.attrs, given.hash_by_hand.is_some())?;
    let of_type = match given.hash_by_hand {
        Some(text) => quote!(::bedrock_sso_proxy::cache::Shape::declared(#text)),
        None => {
            let of_type = &field.ty;
            can_be_followed(of, of_type)?;
            // An error about a type that has no hash then points at the type.
            quote_spanned!(of_type.span()=> <#of_type as ::bedrock_sso_proxy::cache::Structural>::STRUCT_HASH)
        }
    };
    Ok(quote!(.field(#name, #of_type) #attributes))
}

/// Refuses what is plainly without an end or a shape. What cannot be seen here (a type that holds itself by way of
/// another, a type without a hash) is refused by the compiler, at the constant.
fn can_be_followed(of: &str, of_type: &Type) -> Result<()> {
    let mut look = Look { of, found: None };
    look.visit_type(of_type);
    look.found.map_or(Ok(()), Err)
}

struct Look<'a> {
    of: &'a str,
    found: Option<Error>,
}

impl Look<'_> {
    fn refuse(&mut self, at: &impl Spanned, what: &str) {
        self.found.get_or_insert_with(|| Error::new(at.span(), format!("{what}; {BY_HAND}")));
    }
}

impl<'ast> Visit<'ast> for Look<'_> {
    fn visit_type(&mut self, of_type: &'ast Type) {
        match of_type {
            Type::TraitObject(_) => {
                self.refuse(of_type, "the structural hash cannot follow a trait object");
            }
            Type::BareFn(_) | Type::Ptr(_) => {
                self.refuse(of_type, "the structural hash cannot follow a pointer");
            }
            _ => syn::visit::visit_type(self, of_type),
        }
    }

    fn visit_type_path(&mut self, path: &'ast TypePath) {
        let itself = path
            .path
            .get_ident()
            .map(IdentExt::unraw)
            .is_some_and(|ident| ident == "Self")
            || path.path.segments.len() == 1
                && path.path.segments.first().is_some_and(|first| first.ident.unraw() == self.of);
        if itself {
            let what =
                format!("`{}` holds itself, so its structural hash would have no end", self.of);
            self.refuse(path, &what);
        }
        syn::visit::visit_type_path(self, path);
    }
}
