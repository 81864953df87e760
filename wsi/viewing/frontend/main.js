// The two calls that the data files make: gigamil.slide({...}) and gigamil.cohort({...}).
globalThis.gigamil = { slide: (doc) => { document.title = doc.title; }, cohort: (doc) => { document.title = doc.title; } };
