// What the front end finds in a browser beside the web's own: for the type checker alone.
declare const OpenSeadragon: any;
declare var gigamil: { slide: (doc: any) => void; cohort: (doc: any) => void };
